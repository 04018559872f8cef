"""What an experiment on the ISC needs and no researcher wants to write.

It is the template's, and moves on with it: update it, do not edit it.

Floor by floor; a module imports only from floors below its own:

    __main__                      python -m isc_runtime check | checkpoints | export | rehearse | ...
    rehearse                      experiment.isc, run here as the ISC would
    rehearsal                     its parts, a package with floors of its own
    preflight                     is this place fit to train in? two stages
    checkpoint                    what a training loop talks to: restore, save, poll
    outcomes                      what became of the saves: log lines, scalars, too many failures
    loading  saving  logs         what a checkpoint puts back; one save on its way; log, progress bar, scalars
    artifact_store  local_store   where checkpoints live
    store                         what holds for both: heal, choose, set aside, save
    parallel  sharded_save        replicas or shards of a model; how all ranks write it
    sampler                       the order of the data, as a function of the position
    distributed                   process group, device, agreement between ranks
    snapshot  rng  state_size     copies in reused memory; random numbers, as a checkpoint can hold them
    entry                         how a program ends: a message, an exit code, all ranks
    watch  torchrun               one falls, all fall; torchrun with the exit code of the rank that failed
    export  listing               the weights of a checkpoint alone; an inventory in words
    inventory                     what a directory holds of checkpoints, and what a resume would take
    shards                        tensors in shards: marked, read, distributed (imports torch)
    entries                       the checkpoints in a directory, found by name and manifest
    project  launch_schema        is this project fit to submit? what editors are told of launch files
    image  launch_file  lock  version_control         what the parts of a project must be like
    dockerfile  credentials  launch_command           what the image copies; secrets; the command
    lines  sizes  finding         lines of text, sizes in words, one thing that is wrong
    durable  interruption  options                    bytes on the disk; signals; command-line options
    environment                   what the environment variables say
    errors                        an error with its cure; exit codes

`__main__`, `rehearse`, `preflight`, `entry`, `project` and what is below `watch` import no torch when they
are imported.
"""

__version__ = "0.1.0"

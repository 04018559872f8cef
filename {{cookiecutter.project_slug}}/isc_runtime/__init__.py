"""What an experiment on the ISC needs and no researcher wants to write.

It is the template's, and moves on with it: update it, do not edit it.

Floor by floor; a module imports only from floors below its own:

    __main__                      python -m isc_runtime check | preflight
    preflight                     is this place fit to train in? two stages
    checkpoint                    what a training loop talks to: restore, save, poll
    loading  saving  logs         what a checkpoint puts back; one save on its way; log, progress bar, scalars
    artifact_store  local_store   where checkpoints live
    store                         what holds for both: heal, choose, set aside, save
    parallel  shards              replicas or shards of a model; what is sharded, on the disk
    sampler                       the order of the data, as a function of the position
    distributed                   process group, device, agreement between ranks
    snapshot  rng                 copies in reused memory; random numbers, as a checkpoint can hold them
    entry                         how a program ends: a message, an exit code, all ranks
    watch                         one falls, all fall
    project  launch_file  launch_command  finding     is this project fit to submit?
    durable  interruption  options                    bytes on the disk; signals; command-line options
    environment                   what the environment variables say
    errors                        an error with its cure; exit codes

`__main__`, `preflight`, `entry`, `project` and what is below `watch` import no torch when they are imported.
"""

__version__ = "0.1.0"

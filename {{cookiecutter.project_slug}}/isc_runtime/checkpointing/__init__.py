"""Saving and resuming: from what a training loop talks to down to bytes on the disk.

    checkpointer                  what a training loop talks to: restore, save, poll, close
    outcomes                      what became of the saves: log lines, scalars, too many failures
    loading  saving               what a checkpoint puts back; one save on its way, how often one pays
    artifact_store  local_store   the ISC's artifact (cycling_utils), a folder of a laptop
    store                         what holds for both: heal, choose, set aside, save
    sharded_save                  how all ranks write a model of which each holds a part
    snapshot  state_size          copies in reused memory; how large a state is
    export  listing               the weights of a checkpoint alone; an inventory in words
    inventory                     what a directory holds of checkpoints, and what a resume would take
    entries                       the checkpoints in a directory, found by name and manifest
    durable                       bytes that are on the disk, and are the ones that were written

`export`, `listing` and what is below them import no torch when they are imported.
"""

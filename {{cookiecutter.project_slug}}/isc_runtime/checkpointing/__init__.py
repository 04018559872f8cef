"""Saving and resuming: from what a training loop talks to down to bytes on the disk.

    checkpointer                  what a training loop talks to: restore, save, poll, close
    parts  run                    what a training consists of, and whether all of it is saved; what it runs in
    save_log  sharded_save        what became of the saves; a save of a model of which each rank has a part
    loading  save  policy         what a checkpoint puts back; one save and its states; when one is due
    asked                         what the command line asks for otherwise than when the run began
    artifact_store  local_store   the ISC's artifact (cycling_utils), a folder of a laptop
    store  shard_writer           what holds for both: write, `repair`, choose; the files of all ranks
    repair                        what a kill, a copy or a failing disk has left, put in order
    snapshot  state_size          copies in reused memory; how large a state is
    loadable  finite  background  what can be saved so that it can be loaded again; a thread that writes
    export  listing               the weights of a checkpoint alone; an inventory in words
    inventory  payload            what a directory holds and a resume takes; what files hold, as data
    verification                  every byte of a checkpoint is read, and whoever waits is told
    layout                        where checkpoints are, what names say, which one is the newest
    entries                       a checkpoint, by name and manifest
    durable                       bytes that are on the disk, and are the ones that were written
    untrusted                     files of strangers: only plain ones, only so far, only as data

`export`, `listing` and what is below them import no torch when they are imported.
"""

"""Saving and resuming: from what a training loop talks to down to bytes on the disk.

    checkpointer                    what a training loop talks to: restore, save, poll, close
    save_log  parts  run            what became of the saves; what a training consists of; what it runs in
    clock                           when a save is due by time, on all ranks alike
    loading  saving  policy         what a checkpoint puts back; one save and its states; when one is due
    asked  stores                   what the command line asks for; where checkpoints live
    on_disk                         what a checkpoint directory holds: read, checked, listed, exported

`on_disk` imports no torch when it is imported.
"""

"""Saving and resuming: from what a training loop talks to down to bytes on the disk.

    checkpointer                    what a training loop talks to: restore, save, poll, close
    publishing  resuming            what becomes of a save; what a start goes on from
    save_log  parts  run            what is said of saves; what a training consists of; what it runs in
    clock  importing                when a save is due by time; checkpoints of other programs
    loading  saving  policy         what a checkpoint puts back; one save and its states; when one is due
    initial                         weights to begin with
      choosing                        the newest checkpoint that is as it was saved
    asked  stores  imported         what is asked for; where checkpoints live; what an import lacks
      unsaved                         what changes in training and is in no checkpoint
        looked_at                       whatever a training holds, by name
        collected  carried              gradients of several batches; what goes from a batch into the next
    forms  members                  what a training has changed of its parts; which these are
    marks  filling                  what tells whether a value has changed; what fills a part again
      kinds                           which kinds of dicts a part had where a checkpoint holds plain ones
      held  dict_parts                what parts hold themselves; one that is a dict
    on_disk                         what a checkpoint directory holds: read, checked, listed, exported

`on_disk` imports no torch when it is imported.
"""

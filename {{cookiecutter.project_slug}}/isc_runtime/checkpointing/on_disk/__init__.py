"""What a checkpoint directory holds. Nothing here needs torch to be imported, or trusts a file.

export  inventory_report      the weights of a checkpoint alone; an inventory in words
inventory  payload            what a directory holds and a resume takes; what files hold, as data
foreign_source                what a path to another program's checkpoint means, and what is in it
foreign_state  distributed    that in the parts of a training; folders of torch.distributed.checkpoint
verification                  every byte of a checkpoint is read, and whoever waits is told
layout                        where checkpoints are, what names say, which one is the newest
entries                       a checkpoint, by name and manifest
manifest  foreign_folder      bytes that are the ones that were written; other programs' files that are one
durable                       bytes that are on the disk
foreign  start_notes          checkpoints that another program has written; what starts have noted
untrusted  outline            files of strangers: plain ones, only so far, as data; what a pickle holds
"""

"""What train.py's loop is made of, whatever is trained.

evaluation                    of the held-out data: it goes on where it was interrupted
loaders                       the batches of a rank, from any dataset
    streams  stream_position      and from data without a length
    first_sample                  which is to be the same on all ranks, each time
guard  steps                  steps that are not finite; steps that compute the loss several times
fusing  trial                 steps in one kernel on a GPU; steps that went astray are taken back
answers                       what the functions of model.py and data.py return: can it be used?
means                         sums and counts over batches and ranks
ahead  workers                the next batch on its way to a GPU; processes that load data
meter                         how fast it goes, what it waits for, what it takes
batches                       a batch is an opaque tree of tensors: moved, split, cut
"""

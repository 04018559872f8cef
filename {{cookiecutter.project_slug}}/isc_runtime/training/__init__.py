"""What train.py's loop is made of, whatever is trained.

loaders                       the batches of a rank, from any dataset
    streams                       and from data without a length
means  guard                  sums and counts over batches and ranks; steps that are not finite
batches                       a batch is an opaque tree of tensors: moved, split, cut
"""

"""The ranks of a training: how they meet, agree, share a model, and end together.

    self_test  sameness                 whether each rank computes rightly and reaches the others; and runs
                                        the same as they do
    parallel                            a model on all ranks, as replicas or as shards
    replicas                            a whole one on each, which exchange their gradients
    building                            a model that no rank ever has to hold as a whole
      sharding  division                a shard of it on each rank; what of it is sharded together
    buffers  weights                    the first rank's, on all of them; those that have come apart
    group                               the process group, the device, agreement between ranks
    reporting                           how a program ends: a message, an exit code, all ranks
    device  determinism                 where a rank computes; the same bits each time
    watch  deadline                     threads that notice when a rank fell or none makes progress
      launching/                          how the ranks of all nodes begin
    mailbox  interruption  rank_error   words to the master without a collective; signals; an error
    interfaces                          which network interface the nodes reach each other through
    collective_error  explained         what a collective says when it fails though no rank is gone; and torch
    ending  untouched                   the end that nothing can stop; a forward pass that does not count
    shards                              tensors in shards
    shard_metadata  shard_files         where in the files the shards are, read as data; what a rank reads

`reporting`, `ending`, `interfaces`, `rank_error`, `interruption` and `launching` import no torch when they
are imported.
"""

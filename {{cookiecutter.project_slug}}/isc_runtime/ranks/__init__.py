"""The ranks of a training: how they meet, agree, share a model, and end together.

    parallel                      replicas or shards of a model on all ranks
    group                         the process group, the device, agreement between ranks
    ending                        how a program ends: a message, an exit code, all ranks
    watch                         a thread that notices when another rank fell or none makes progress
    interruption  torchrun        signals; torchrun with the exit code of the rank that failed
    shards                        tensors in shards: marked, read, distributed

`ending`, `interruption` and `torchrun` import no torch when they are imported.
"""

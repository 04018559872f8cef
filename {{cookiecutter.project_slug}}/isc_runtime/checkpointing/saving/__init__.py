"""One save, from a copy in memory to the link that points to it.

sharded_save                       a save of a model of which each rank has a part
save                               what holds for all: its states; a state that every rank has
shard_writer  step_hold            the files of all ranks; an optimizer's step waits for the copy
snapshot  state_size               copies in reused memory; how large a state is
loadable  finite                   what can be loaded again; what is not finite
pinned  unchanged                  memory that a GPU copies into; frozen weights, which are copied once
fingerprint                        tells the bytes of a tensor, where it is
"""

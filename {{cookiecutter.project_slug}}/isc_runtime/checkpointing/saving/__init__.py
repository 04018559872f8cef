"""One save, from a copy in memory to the link that points to it.

sharded_save                       a save of a model of which each rank has a part
save                               what holds for all: its states; a state that every rank has
shard_writer  snapshot  state_size the files of all ranks; copies in reused memory; how large a state is
loadable  finite  background       what can be loaded again; what is not finite; a thread that writes
"""

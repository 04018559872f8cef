"""How the ranks of all nodes begin: the nodes meet, torchrun starts the ranks, and ends as they do.

    roll_call  launch           are all nodes there and ready, before torch; torchrun within a limit
    node  torchrun              what launch.sh is told; torchrun with the exit code of the rank that failed
    fork_server                 what is imported once for all ranks of a node
    rank                        how a rank begins that was forked (a script of torchrun's)

None of them imports torch when it is imported.
"""

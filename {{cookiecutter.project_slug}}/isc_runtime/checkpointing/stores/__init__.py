"""Where checkpoints live; only the master touches it.

artifact_store  local_store   the ISC's artifact (cycling_utils), a folder of a laptop
store                         what holds for both: write, publish, choose
keeping                       what newer checkpoints have made superfluous
output                        a payload through one descriptor; why torch could not write
repair  starts                what a kill, a copy or a failing disk has left; starts that lead nowhere
fence  lock                   who may write: the run that started last; one training in a folder
aside                         what is not wanted is moved out of the way, and never deleted
"""

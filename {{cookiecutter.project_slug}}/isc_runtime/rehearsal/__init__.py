"""The parts of `python -m isc_runtime rehearse`, floor by floor; a module imports only from floors below:

report  plot                 table, JSON; the picture
verdict                      what the cycles show: fit to submit, or not and why
cycle  samples  weights      one cycle, run and watched; what was trained on; what came out
node                         the processes of a node, and their sure end
plan  command  artifact  trace
                             what will happen; what is run; what a sync does; what the ranks tell
startup/sitecustomize.py     in the ranks: tells what they train on
warden.py                    beside them: ends them when the rehearsal itself is killed
"""

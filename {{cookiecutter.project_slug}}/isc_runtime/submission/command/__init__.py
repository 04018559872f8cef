"""The command of a launch file: what the ISC makes of it, and what it tells train.py.

launch_command                  where it goes, and whether it hands over to launch.sh
train_arguments  command_form   what train.py is told; lines and operators
on_a_node                       programs, variables and quotes that do something else there
shell                           how a shell reads
parser_probe                    train.py's own parser, asked in a process of its own
"""

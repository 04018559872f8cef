"""Is this project ready to submit? `python -m isc_runtime check` looks at its parts. Standard library only.

submit                                          hands it over, and writes down what it is
project  launch_schema                          all parts; what editors are told of launch files
leaks  facts                                    secrets that would get out; what is submitted
image  launch_file  imports  version_control    what the parts of a project must be like
lock  dockerfile  credentials  launch_command   requirements; what the image copies; secrets; the command
train_arguments  command_form                   what train.py is told; lines and operators
shell  launch_keys  python_source               how a shell reads; what the ISC knows; Python, not run
lines  finding  journal  parser_probe           text; one thing that is wrong; what only grows; a parser
"""

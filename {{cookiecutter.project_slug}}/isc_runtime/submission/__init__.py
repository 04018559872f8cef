"""Is this project fit to submit? `python -m isc_runtime check` looks at its parts. Standard library only.

project  launch_schema                          all parts; what editors are told of launch files
image  launch_file  imports  version_control    what the parts of a project must be like
lock  dockerfile  credentials  launch_command   requirements; what the image copies; secrets; the command
train_arguments  command_form                   what train.py is told; lines and operators
shell  launch_keys  python_source               how a shell reads; what the ISC knows; Python that is not run
lines  finding  parser_probe                    lines of text; one thing that is wrong; a parser, asked
"""

"""Is this project fit to submit? `python -m isc_runtime check` looks at its parts. Standard library only.

project  launch_schema                      all parts together; what editors are told of launch files
image  launch_file  lock  version_control   what the parts of a project must be like
dockerfile  credentials  launch_command     what the image copies; secrets; the command
lines  finding                              lines of text; one thing that is wrong
"""

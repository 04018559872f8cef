"""Is this project fit to submit? `python -m isc_runtime check` looks at its parts. Standard library only.

submit                                      hands it over, and writes down what it is
project  launch_schema                      all parts together; what editors are told of launch files
leaks  facts                                secrets that would get out; what is submitted
image  launch_file  lock  version_control   what the parts of a project must be like
update                                      what an update of the template left for a person
dockerfile  credentials  launch_command     what the image copies; secrets; the command
lines  finding  journal                     lines of text; one thing that is wrong; lines that are only added
"""

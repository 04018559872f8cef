"""Is this project ready to submit? `python -m isc_runtime check` looks at its parts. Standard library only.

submit  sweep                           hands it over and notes what it is; a file for each point
project  launch_schema                  all parts; what editors are told of launch files
facts  parts                            what is submitted; what must be here, in the image and in git
launch_file  imports  update            its parts; what an update left for a person
installation                            installs what pyproject.toml names: make setup
contents  command                       what gets into git and the image; what the launch file runs
lock  launch_keys                       requirements; what the ISC knows
logical_lines  finding  journal         files line by line; one thing that is wrong; lines that are only added
"""

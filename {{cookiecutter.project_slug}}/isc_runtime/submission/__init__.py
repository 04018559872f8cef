"""Is this project ready to submit? `python -m isc_runtime check` looks at its parts. Standard library only.

submit                                  hands it over, and writes down what it is
project  launch_schema                  all parts; what editors are told of launch files
facts  launch_file  imports  update     what is submitted; its parts; what an update left for a person
contents  command                       what gets into git and the image; what the launch file runs
lock  launch_keys                       requirements; what the ISC knows
lines  finding  journal                 files of lines; one thing that is wrong; lines that are only added
"""

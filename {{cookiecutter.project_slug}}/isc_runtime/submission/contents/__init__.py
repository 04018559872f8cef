"""What gets out of a project: into git, into the image.

leaks  scanner_plugin     secrets that would get out; what the scanner is told to look for besides
image  version_control    what the image copies, and how much; what is not committed
dockerfile  credentials   how a Dockerfile and .dockerignore read; what a secret looks like
"""

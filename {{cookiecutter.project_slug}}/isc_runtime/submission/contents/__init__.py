"""What gets out of a project: into git, into the image.

leaks                     secrets that would get out
image  version_control    what the image copies, and how much; what is not committed
dockerfile  credentials   how a Dockerfile and .dockerignore read; what a secret looks like
"""

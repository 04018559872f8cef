"""From the logs of a failed experiment to its cause: `python -m isc_runtime explain`. Standard library only.

    command_line              which logs there are, how it ends
    report                    one screen; JSON
    diagnosis                 which rank was first, and why; the last attempt on all nodes
    notes  reading            what else a reader should know; a log becomes attempts
    answer  classification    what is said in the end; which cause a line or an exit code is a sign of
    own  python  cuda         the causes: our own messages; Python, torch and Linux; CUDA and NCCL
    attempt  tracebacks       what is known of one start of the experiment; exceptions in a log
    log_lines  cause          a log of any size as clean lines; what a cause is

Nothing of a log is printed as it is: terminal escapes and what cannot be printed are taken out first.
"""

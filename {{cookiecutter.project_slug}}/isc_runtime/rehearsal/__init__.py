"""The ISC on a laptop: `python -m isc_runtime rehearse`.

    command_line                    its options, and how it ends
    run                             all of it: check, trial start, cycles, the uninterrupted run, comparison
    report  plot                    table and JSON; the picture
    verdict                         ready to submit, or not and why
    left_behind                     files of one cycle, or node, that another one read
    elsewhere                       what a node of the ISC will not have, and what is lost there
    cycle_findings  pace            what a single cycle shows; how soon cycles get somewhere
    cycle  samples  weights         a cycle, run and watched; what it was trained on; what came out
    node  artifact  trace  plan             processes; syncs; what ranks tell; what will happen
    command  duplicate                      what is run; the copy of the project that it runs in
    warden                          finds and ends the processes, also when the rehearsal itself is killed

In the ranks startup/sitecustomize.py tells what they train on. `weights` loads torch and `plot` matplotlib,
not before they have to.
"""

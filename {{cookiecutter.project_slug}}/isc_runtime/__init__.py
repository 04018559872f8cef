"""What an experiment on the ISC needs and no researcher wants to write.

It is the template's, and moves on with it: update it, do not edit it.

Floor by floor; a module imports only from floors below its own:

    __main__        python -m isc_runtime check | preflight
    checkpoint      what a training loop talks to: restore, save, close (with saving, snapshot, watch)
    store           where checkpoints live: local_store, artifact_store
    sampler, rng    the order of the data, and random numbers, as a checkpoint can hold them
    distributed     process group, device, agreement between ranks
    preflight       is this place fit to train in?
    project         is this project fit to submit? (with launch_file, launch_command, finding)
    durable         bytes that are really on the disk
    environment     what the environment variables say (with options, interruption, logs, errors)

Up to `preflight`, no module imports torch when it is itself imported.
"""

__version__ = "0.1.0"

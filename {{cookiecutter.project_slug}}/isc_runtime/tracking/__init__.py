"""Where the curves of a training go: TensorBoard, or what `--tracker` names.

chosen  guarded                                        from the words of --tracker to trackers; one may fail
tensorboard_events  weights_and_biases  mlflow_files   each is one, imported only if it is chosen
run_id  rows                                           what keeps a run one run over all resumes
tracker                                                what a tracker is
"""

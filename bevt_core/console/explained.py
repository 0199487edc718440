"""A few words on the keys of results that a reader may not know, for the terminal. JSON results have the keys alone."""

EXPLAINED: dict[str, str] = {
    # bevt scan
    "stubs": "videos below 9 KiB, usually failed downloads",
    "missing": "listed, but not found",
    "ignored": "files of other kinds",
    "p5": "5 % are shorter",
    "p95": "5 % are longer",
    "unlabelled": "sources without a label",
    "assumed_gpu_tflops": "TFLOP/s, for tokenizer_gpu_hours",
    # bevt tokenize, verify
    "indexed": "sources with usable frames",
    "samples": "a long source may give several",
    "rejected": "sources that cannot be used",
    "parts_done_before": "made by an earlier run",
    "frame_parts_done_before": "frames made by an earlier run",
    "first_tokens_s": "from the start to the first tokens",
    "tokenizers": "processes that tokenized",
    "actor_busy_share": "of the time, the tokenizers were working",
    "token_agreement": "share of equal tokens when tokenized again",
    # bevt train, finetune, runs
    "mvm_acc": "masked video tokens predicted exactly",
    "mim_acc": "masked image tokens predicted exactly",
    "mvm_target_perplexity": "effective number of different tokens",
    "mim_target_perplexity": "effective number of different tokens",
    "grad_norm": "before clipping",
    "data_wait_share": "of the step, waiting for data",
    "hook_s": "evaluations after this step",
    "tflops_per_s": "of one process",
    "hfu": "of the device's peak, recomputed operations included",
    "mfu": "of the device's peak",
    "left_s": "estimated time to the end",
    "silent_s": "since the last step",
    "logged": "time of the last step",
    "writer": "process that writes the run",
    "skipped_steps": "steps without a finite loss",
    # bevt evaluate
    "mean_class": "mean of the classes' top-1",
    "temporal": "order of the frames",
    "calibration_error": "mean gap between score and accuracy",
    "overlap_with_training": "tested clips that the model was trained on",
    "overlap_with_pretraining": "tested clips used in pretraining, without labels",
}

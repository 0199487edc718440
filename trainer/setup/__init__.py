"""Set up a training run of any stage: model, initial weights, cost, memory, plan, estimate and session.

Code of a single stage is in pretrain, finetune or tokenizer.
"""

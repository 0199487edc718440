"""The pages of `bevt view RUN` and `bevt view EVALUATION`. Not here: how they are served (bevt_core.viewer)."""

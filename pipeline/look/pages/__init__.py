"""The pages of `bevt view DATASET`. Not here: how they are served (bevt_core.viewer)."""

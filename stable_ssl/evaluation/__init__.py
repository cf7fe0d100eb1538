"""Evaluation of features and predictions; functions of tensors, modules and loaders."""

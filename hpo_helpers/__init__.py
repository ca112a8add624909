"""What the lessons on hyperparameter optimization keep out of sight: data, plumbing and pictures.

Import from the modules themselves: ``from hpo_helpers.tuning import tune``.
"""

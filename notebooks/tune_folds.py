# Tune a classifier by k-fold cross-validation, and fit it on all the data:
#     python tune_folds.py 5 --trials 20
import argparse
import sys
import tempfile
from pathlib import Path

import joblib
import optuna
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

parser = argparse.ArgumentParser(description="Tune by k-fold cross-validation, then fit on all the data.")
parser.add_argument("k", type=int, nargs="?", choices=range(2, 11), default=5, help="folds; 5 by default")
parser.add_argument("--trials", type=int, default=20, help="suggestions; 20 by default")
parser.add_argument("--jobs", type=int, default=1, help="folds at a time; 1 by default")
parser.add_argument("--into", type=Path, default=".", help="folder for trials.csv and model.joblib")
no_shell = ["5", "--trials", "20", "--into", tempfile.mkdtemp()] if "ipykernel" in sys.modules else None
options = parser.parse_args(no_shell)  # a notebook has no command line
X, X_test, y, y_test = train_test_split(*load_breast_cancer(return_X_y=True), train_size=200, random_state=0)
folds = StratifiedKFold(options.k, shuffle=True, random_state=0)  # the same for every trial

def model(C, kind):
    old = LogisticRegression().l1_ratio is None  # scikit-learn before 1.8
    penalty = {"penalty": kind} if old else {"l1_ratio": float(kind == "l1")}
    classifier = LogisticRegression(C=C, solver="liblinear", random_state=0, **penalty)
    return make_pipeline(StandardScaler(), classifier)  # each fold learns its own scaling


def objective(trial):
    C, kind = trial.suggest_float("C", 1e-4, 1e2, log=True), trial.suggest_categorical("kind", ["l1", "l2"])
    aucs = cross_val_score(
        model(C, kind), X, y, cv=folds, scoring="roc_auc", n_jobs=options.jobs, error_score="raise")
    factor = 1 / options.k + 1 / (options.k - 1)  # of Nadeau and Bengio
    trial.set_user_attr("standard_error", aucs.std(ddof=1) * factor**0.5)
    return aucs.mean()

sampler = optuna.samplers.TPESampler(seed=0)
study = optuna.create_study(study_name="few", direction="maximize", sampler=sampler)
study.optimize(objective, options.trials, catch=Exception)  # a trial whose fold fails ends as FAIL
study.trials_dataframe().to_csv(options.into / "trials.csv", index=False)
final = model(**study.best_params).fit(X, y)
joblib.dump(final, options.into / "model.joblib")
error = study.best_trial.user_attrs["standard_error"]
print(study.trials_dataframe()["state"].value_counts().to_dict(), "best:", study.best_params)
print(f"AUC of the {options.k} folds: {study.best_value:.3f}, standard error {error:.3f}")
print(f"AUC on the test part: {roc_auc_score(y_test, final.decision_function(X_test)):.3f}")
print("Left behind: trials.csv and model.joblib")

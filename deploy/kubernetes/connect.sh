# shellcheck shell=bash
# Source this: `. deploy/kubernetes/connect.sh` (bash or zsh).  Waits for the services of the namespace eeg2fmri, opens
# Ray's jobs and MLflow on loopback through kubectl, and exports where they are and the secrets that they ask for.
#
# The doors close with the shell, or by: kill $EEG2FMRI_DOORS

_secret() { kubectl --namespace eeg2fmri get secret "$1" --output "jsonpath={.data.$2}" | base64 -d; }

kubectl --namespace eeg2fmri rollout status deployment/mlflow --timeout 10m &&
    kubectl --namespace eeg2fmri wait pod --for condition=Ready --timeout 10m \
        --selector app.kubernetes.io/component=ray-head,app.kubernetes.io/instance=standing || return 1

kubectl --namespace eeg2fmri port-forward service/eeg2fmri-head-svc 8265:8265 >/dev/null &
EEG2FMRI_DOORS=$!
kubectl --namespace eeg2fmri port-forward service/mlflow 5000:5000 >/dev/null &
EEG2FMRI_DOORS="$EEG2FMRI_DOORS $!"

export RAY_ADDRESS=http://127.0.0.1:8265 RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(_secret ray-token auth_token) && export RAY_AUTH_TOKEN
export MLFLOW_TRACKING_URI=http://localhost:5000 MLFLOW_TRACKING_USERNAME=eeg2fmri
MLFLOW_TRACKING_PASSWORD=$(_secret mlflow password) && export MLFLOW_TRACKING_PASSWORD
unset -f _secret

echo "MLflow: $MLFLOW_TRACKING_URI, user $MLFLOW_TRACKING_USERNAME, password in \$MLFLOW_TRACKING_PASSWORD"
echo "Ray: ray job submit -- python -m platform.search transformer"

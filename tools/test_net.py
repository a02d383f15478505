"""Evaluate a QueryPose: python tools/test_net.py --config-file configs/querypose_R50.yaml MODEL.WEIGHTS model.pth"""

from querypose.engine import train_net
from querypose.errors import exit_on_user_error

if __name__ == "__main__":
    with exit_on_user_error():
        arguments = train_net.parser().parse_args()
        arguments.eval_only = True
        train_net.main(arguments)

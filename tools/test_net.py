"""Evaluate a QueryPose: python tools/test_net.py --config-file configs/querypose_R50.yaml MODEL.WEIGHTS model.pth"""

from querypose.engine import launch, train_net_main, train_net_parser
from querypose.errors import exit_on_user_error

if __name__ == "__main__":
    with exit_on_user_error():
        arguments = train_net_parser().parse_args()
        arguments.eval_only = True
        launch(train_net_main, arguments)

"""Train or evaluate a QueryPose: python tools/train_net.py --config-file configs/querypose_R50.yaml --num-gpus 8"""

from querypose.engine import train_net
from querypose.errors import exit_on_user_error

if __name__ == "__main__":
    with exit_on_user_error():
        train_net.main(train_net.parser().parse_args())

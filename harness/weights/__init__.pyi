from .checkpoint import read_checkpoint as read_checkpoint
from .load import CheckpointMismatchError as CheckpointMismatchError
from .load import convert as convert
from .load import load_model as load_model
from .network import Network as Network
from .network import load_network as load_network
from .network import package_file as package_file
from .recognise import recognise_backbone as recognise_backbone

"""Parts of an NVFlare server: FedAvg of a model given as lists, and a filter that sees replies."""

import json
from pathlib import Path

import numpy as np
from nvflare.apis.dxo import from_shareable
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import ReturnCode
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.workflows.fedavg import FedAvg


class GivenFedAvg(FedAvg):
    """FedAvg from arrays that are given; it writes the global model after each round."""

    def __init__(self, num_clients, num_rounds, arrays, folder):
        super().__init__(num_clients=num_clients, num_rounds=num_rounds, persistor_id="")
        self.num_clients, self.num_rounds = num_clients, num_rounds
        self.arrays, self.folder = arrays, folder

    def load_model(self):
        """Return the initial model."""
        return FLModel(params={name: np.array(x) for name, x in self.arrays.items()})

    def save_model(self, model):
        """Write the global model."""
        np.savez(Path(self.folder) / f"global-{self.current_round}.npz", **model.params)


class SeenFilter(Filter):
    """Write down what each reply holds, and pass it on."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def process(self, shareable, fl_ctx):
        """Write a line: a site's return code, or names and metadata, all of it as text."""
        site = fl_ctx.get_peer_context().get_identity_name()
        seen = {"site": site, "code": shareable.get_return_code()}
        if seen["code"] == ReturnCode.OK:
            dxo = from_shareable(shareable)
            headers = {k: v for k, v in shareable["__headers__"].items() if k != "__peer_ctx__"}
            seen |= {"arrays": list(dxo.data), "meta": list(dxo.meta)}
            seen |= {"keys": list(shareable), "text": repr(dxo.meta) + repr(headers)}
        with (Path(self.folder) / f"seen-{site}.jsonl").open("a") as file:
            file.write(json.dumps(seen) + "\n")
        return shareable

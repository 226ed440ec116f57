"""The classification head: its equation, and that adapters which wrap its linear maps get the domains."""

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model

from peterrec.heads.classification import ClassificationHead


def test_it_is_norm_hidden_layers_and_a_linear_map():
    head = ClassificationHead(6, 3, hidden=[5, 4], dropout=0.4).eval()
    names = {"hidden.1.weight", "hidden.1.bias", "hidden.4.weight", "hidden.4.bias", "output.weight", "output.bias"}
    assert set(head.state_dict()) == names
    x = torch.randn(7, 6)
    w = head.state_dict()
    inner = F.layer_norm(x, (6,))
    for name in ("hidden.1", "hidden.4"):
        inner = torch.relu(inner @ w[f"{name}.weight"].T + w[f"{name}.bias"])
    torch.testing.assert_close(head(x), inner @ w["output.weight"].T + w["output.bias"])
    assert torch.equal(head(x, domain_ids=torch.arange(7)), head(x))
    torch.testing.assert_close(head(100 * x), head(x), rtol=1e-4, atol=1e-4)


def test_dropout_only_in_training():
    torch.manual_seed(0)
    head, x = ClassificationHead(6, 3, dropout=0.5), torch.randn(4, 6)
    assert not torch.equal(head.train()(x), head(x))
    assert torch.equal(head.eval()(x), head(x))


def test_the_domains_reach_every_wrapped_map():
    head = ClassificationHead(6, 3, hidden=[5]).eval()
    seen = []
    for name in ("norm", "hidden.1", "output"):
        head.get_submodule(name).register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["domain_ids"]), with_kwargs=True
        )
    ids, x = torch.tensor([1, 0]), torch.randn(2, 6)
    wanted = head(x, domain_ids=ids)
    assert len(seen) == 3
    assert all(each is ids for each in seen)
    wrapped = get_peft_model(head, LoraConfig(r=2, target_modules=["hidden.1", "output"]))
    torch.testing.assert_close(wrapped(x, domain_ids=ids), wanted)
    assert all(each is ids for each in seen[3:])

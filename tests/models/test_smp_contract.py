"""What users of segmentation_models_pytorch do with a network, by the names that they know."""

import pytest
import torch

from pspnet_zoo import Labels, PSPNet
from pspnet_zoo.cli.info import info
from pspnet_zoo.models.heads import Activated

SMALL = {"encoder_name": "test_efficientnet", "encoder_weights": None, "psp_out_channels": 8}


def test_the_class_loads_with_other_arguments(tmp_path):
    PSPNet(**SMALL, classes=3).save_pretrained(tmp_path)
    net = PSPNet.from_pretrained(tmp_path, psp_dropout=0.5)
    assert net.config["psp_dropout"] == 0.5 and net.classes == 3
    assert PSPNet.from_pretrained(str(tmp_path), classes=5).classes == 5


@pytest.mark.parametrize(
    ("multilabel", "threshold", "text"),
    [
        (False, 0.52, "A pixel has id 1 where its probability is above 0.52."),
        (True, None, "A pixel may be of several of these classes, or of none (multi-label)."),
        (True, (0.5, 0.25), "above that of the class: 0.5, 0.25."),
    ],
)
def test_a_card_and_info_say_by_what_rule_a_pixel_has_a_class(tmp_path, capsys, multilabel, threshold, text):
    network = PSPNet("test_resnet", None, classes=2, psp_out_channels=16, multilabel=multilabel)
    network.labels = Labels(("cell", "nucleus"))
    network.threshold = threshold
    network.save_pretrained(tmp_path, dataset="cells")
    assert text in (tmp_path / "README.md").read_text()
    info(str(tmp_path))
    out = capsys.readouterr().out
    assert ("multilabel  " in out) is multilabel and ("threshold  " in out) is (threshold is not None)
    assert threshold is None or str(threshold) in out


def test_a_card_names_the_dataset_and_the_metrics(tmp_path):
    net = PSPNet(**SMALL, classes=3)
    net.save_pretrained(tmp_path, dataset="pets", metrics={"my_iou": 0.875}, model_card_kwargs={"license": "MIT"})
    card = (tmp_path / "README.md").read_text()
    assert "pets" in card and "my_iou" in card and "0.8750" in card and "license: mit" in card
    assert (tmp_path / "model.safetensors").is_file() and (tmp_path / "config.json").is_file()
    with pytest.raises(TypeError, match="'tags'; it can have 'license'"):
        net.save_pretrained(tmp_path, model_card_kwargs={"tags": ["x"]})
    with pytest.raises(ValueError, match="needs repo_id"):
        net.save_pretrained(tmp_path, push_to_hub=True)


def test_saving_pushes_where_it_is_asked_to(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(
        "pspnet_zoo.models.pretrained.push", lambda folder, repo: sent.append((repo, sorted(p.name for p in folder.iterdir())))
    )
    PSPNet(**SMALL, classes=3).save_pretrained(tmp_path, push_to_hub=True, repo_id="me/mine")
    assert sent == [("me/mine", ["README.md", "config.json", "model.safetensors"])]
    assert "# mine" in (tmp_path / "README.md").read_text()


def test_a_network_says_what_it_can():
    assert PSPNet.requires_divisible_input_shape is False
    assert (PSPNet._is_torch_scriptable, PSPNet._is_torch_exportable, PSPNet._is_torch_compilable) == (False, True, True)


@pytest.mark.parametrize(("activation", "kind"), [("sigmoid", torch.nn.Sigmoid), (None, torch.nn.Identity)])
def test_heads_end_in_a_wrapped_activation(activation, kind):
    net = PSPNet(**SMALL, classes=1, activation=activation, aux_params={"classes": 2, "activation": activation})
    for last in (net.classification_head[4], net.segmentation_head[2]):
        assert isinstance(last, Activated) and isinstance(last.activation, kind)


def test_loading_for_other_classes_without_strictness_warns_of_the_keys(tmp_path):
    PSPNet(**SMALL, classes=3).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"Mismatched keys.*segmentation_head\.0\.weight, segmentation_head\.0\.bias"):
        net = PSPNet.from_pretrained(tmp_path, classes=2, strict=False)
    assert net.classes == 2


def test_a_perfect_file_gives_no_warning_without_strictness(tmp_path, recwarn, caplog):
    PSPNet(**SMALL, classes=3).save_pretrained(tmp_path)
    PSPNet.from_pretrained(tmp_path, strict=False)
    assert not recwarn.list and not caplog.records


def test_unfreezing_gives_the_norms_back_to_training():
    net = PSPNet(**SMALL, classes=3).eval()
    norms = [m for m in net.encoder.modules() if isinstance(m, torch.nn.modules.batchnorm._NormBase)]
    net.freeze_encoder()
    assert norms and not any(norm.training for norm in norms)
    assert not any(parameter.requires_grad for parameter in net.encoder.parameters())
    net.unfreeze_encoder()
    assert all(norm.training for norm in norms) and all(parameter.requires_grad for parameter in net.encoder.parameters())


@pytest.mark.parametrize("name", ["classes", "in_channels", "psp_out_channels", "aux_channels", "psp_bin_channels"])
@pytest.mark.parametrize("count", [0, -1, 1.5])
def test_a_number_of_channels_is_positive(name, count):
    with pytest.raises(ValueError, match=f"{name} is {count}; it must be a whole number"):
        PSPNet(**{**SMALL, name: count})


def test_weights_for_three_channels_are_adapted_to_others(tmp_path):
    from pspnet_zoo import create

    PSPNet(**SMALL, classes=3).eval().save_pretrained(tmp_path)
    three = PSPNet.from_pretrained(tmp_path)
    one = PSPNet.from_pretrained(tmp_path, in_channels=1)
    x = torch.randn(1, 1, 32, 40)
    torch.testing.assert_close(one(x), three(x.expand(1, 3, 32, 40)), rtol=1e-4, atol=1e-5)
    four = create("pspnet_lite0", pretrained=True, in_channels=4)
    assert four.predict(torch.randn(1, 4, 32, 32)).shape == (1, 11, 32, 32) and len(four.preprocess.mean) == 4

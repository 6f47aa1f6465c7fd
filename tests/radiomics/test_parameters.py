"""Parameter files: what is written is what is meant, or it is refused by name."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from auscult.domain.ibsi_features import FEATURES
from auscult.entrypoints.radiomics.command import radiomics
from auscult.platform.errors import RefuseToStart
from auscult.radiomics.parameters import DEFAULT, FAMILIES, TEMPLATE, Parameters, parse


def refusal(text: str) -> str:
    """Return the words with which a file is refused."""
    with pytest.raises(RefuseToStart, match="radiomics-settings") as error:
        parse(text)
    return str(error.value)


def test_the_template_has_every_parameter_with_its_default() -> None:
    """What `--print-parameters` shows is the documented schema, whole and true."""
    text = CliRunner().invoke(radiomics, ["--print-parameters"]).output
    assert text == TEMPLATE.read_text()
    assert parse(text) == DEFAULT
    shown = {line.split(":")[0] for line in text.splitlines() if line and line[0] not in "# "}
    assert shown == set(Parameters.__struct_fields__)


def test_parameters_that_are_given_can_be_printed(tmp_path: pytest.TempPathFactory) -> None:
    """As a file that means the same."""
    path = tmp_path / "p.yaml"  # type: ignore[operator]
    path.write_text("{bin_number: 8, outliers: 3}")
    printed = CliRunner().invoke(radiomics, ["--print-parameters", "--parameters", str(path)]).output
    assert parse(printed) == Parameters(bin_number=8, outliers=3)


def test_families_name_all_features() -> None:
    """No feature is out of reach."""
    assert DEFAULT.features() == FEATURES
    assert set(FAMILIES.values()) == {feature.family for feature in FEATURES}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "bin_width or bin_number"),
        ("{bin_width: 5, bin_number: 5}", "bin_width or bin_number"),
        ("{bin_width: 0}", "bin_width is above 0"),
        ("{bin_width: 5, spacing: [1, 1]}", "spacing"),
        ("{bin_width: 5, spacing: [1, 1, -1]}", "spacing is above 0"),
        ("{bin_width: 5, resegmentation: [5, 5]}", "resegmentation"),
        ("{bin_width: 5, mask_threshold: 0}", "mask_threshold"),
        ("{bin_width: 5, image_interpolation: sinc}", "image_interpolation"),
        ("{bin_width: 5, cooccurrence_distance: 2}", "cooccurrence_distance"),
        ("{bin_width: 5, families: [glmc]}", "families"),
        ("{bin_width: 5, families: [glcm], aggregations: [3D]}", "leave no feature"),
        ("{binWidth: 5}", "no setting 'binWidth'; did you mean 'bin_width'"),
        ("{bin_width: 5, outlier: 3}", "did you mean 'outliers'"),
        ("{bin_width: 5, wavelet: 3}", "no setting 'wavelet'; `--print-parameters`"),
        ("[", "no YAML"),
        ("- 1", "name: value"),
        (b"\xff\xfe\x00", "no YAML"),
    ],
)
def test_what_cannot_be_used_is_named(text: str, said: str) -> None:
    """A wrong or misspelt setting is refused, with the one that was probably meant; never ignored."""
    assert said in refusal(text)


def test_a_file_of_pyradiomics_is_told_what_it_is_here() -> None:
    """Its settings' names here, and which have none."""
    text = refusal(
        "setting: {binWidth: 25, resampledPixelSpacing: [1, 1, 2], interpolator: sitkBSpline, normalize: true, "
        "label: 2}\nimageType: {Original: {}, Wavelet: {}}\nfeatureClass: {shape: , glcm: [Contrast]}\n"
    )
    for said in (
        "bin_width: 25,",
        "spacing: [2, 1, 1]",
        "image_interpolation: cubic",
        "--label 2",
        "families: [morphology, glcm]",
        "Without a counterpart: normalize, imageType Wavelet",
    ):
        assert said in text

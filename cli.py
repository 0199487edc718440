"""The command `bevt`: the table of its commands, and the link between the two halves, the pipeline and the trainer."""

if __name__ == "__main__":  # `python -m cli`; first, since other projects' modules must not be imported
    from bevt_core.__main__ import main

    main()  # ends the process

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bevt_core.console.command_line import VIEWERS, App
from bevt_core.console.command_table import Command, Group, Panels, group_class
from bevt_core.console.terminal import show

if TYPE_CHECKING:
    from trainer.clips.selection import PipelineSources

TOKENIZER = {
    "train": Command(
        "trainer.commands.tokenizers:train_tokenizer",
        "Train a tokenizer on stored frames: a discrete VAE or a VQ-VAE.",
    ),
    "info": Command(
        "bevt_core.commands.tokenizers:tokenizer_info",
        "Show what a tokenizer is and how well it reconstructs stored frames.",
    ),
    "compare": Command(
        "bevt_core.commands.tokenizers:compare_tokenizers",
        "Compare tokenizers: equal ids, quality, speed and what changes ids.",
    ),
    "convert": Command("bevt_core.commands.tokenizers:convert_tokenizer", "Convert published weights to safetensors."),
    "fetch": Command("bevt_core.commands.tokenizers:fetch_tokenizer", "Download a published tokenizer and convert it."),
}
ANALYSE = {
    "temporal": Command(
        "trainer.commands.testing:analyse_temporal",
        "Test a classifier with frames in order, one repeated, and shuffled.",
    ),
}
RUNS = {
    "list": Command(
        "trainer.commands.runs:list_runs", "List the runs below a folder, newest first: steps, loss and state."
    ),
    "show": Command("trainer.commands.runs:show_run", "Show one run: its command, data, checkpoints and last metrics."),
    "compare": Command("trainer.commands.runs:compare_runs", "Compare runs: settings that differ, results and curves."),
}
VIZ = {
    "masks": Command("trainer.commands.viz:masks", "Draw every masking strategy over one clip."),
    "predict": Command(
        "trainer.commands.viz:predict", "Draw a clip, its masked input, and the predicted and true tokens decoded."
    ),
    "attention": Command(
        "trainer.commands.viz:attention", "Draw how much attention each position gets, a row per stage."
    ),
}
MODEL = {
    "list": Command("bevt_core.commands.models:list_models", "List the pretrained models in the package."),
    "info": Command(
        "bevt_core.commands.models:info",
        "Show a packaged model's origin, or a classifier's parameters and multiply-adds.",
    ),
}
BENCH = {
    "encoder": Command(
        "bevt_core.commands.models:bench_encoder", "Measure Video Swin against torchvision's, forward and backward."
    ),
    "step": Command("trainer.commands.bench:bench_step", "Measure a training step with stored tokens."),
    "attention": Command(
        "bevt_core.commands.models:bench_attention", "Measure every window attention implementation at a Swin's shapes."
    ),
    "loader": Command(
        "trainer.commands.bench:bench_loader", "Measure clips per CPU-second from shards and from video files."
    ),
    "tokenize": Command(
        "pipeline.commands.bench:bench_tokenize", "Measure the CPU time of a tokenization job against a bare loop."
    ),
    "store": Command(
        "pipeline.commands.bench:bench_store", "Measure the bytes on disk of a stored frame and of its tokens."
    ),
}
PANELS: Panels = {
    "Data": {
        "tokenize": Command(
            "pipeline.commands.data:tokenize",
            "Decode a data set and tokenize it once, into a frame store and a token set.",
        ),
        "extend": Command(
            "pipeline.commands.growth:extend",
            "Add new videos or pictures to a finished dataset, as new parts.",
        ),
        "scan": Command(
            "pipeline.commands.data:scan", "Check raw data before a long job: missing, unreadable and odd files."
        ),
        "repair": Command(
            "pipeline.commands.data:repair", "Rebuild the parts of a dataset that `bevt verify` finds damaged."
        ),
        "inspect": Command(
            "pipeline.commands.data:inspect", "Show a dataset's settings, or one sample's source, class and frames."
        ),
        "verify": Command(
            "pipeline.commands.data:verify",
            "Check a dataset: digests, counts, and that tokens match the stored frames.",
        ),
        "export-data": Command(
            "pipeline.commands.export:export_data",
            "Write frames, tokens and views as WebDataset shards or a Lance dataset.",
        ),
        "demo-videos": Command(
            "pipeline.commands.synthetic:demo_videos",
            "Make small sets of videos in which a camera moves; its motion is the class.",
        ),
    },
    "Pretrain": {
        "plan": Command(
            "trainer.commands.plan:plan", "Estimate the hours, memory, disk and price of the paper's experiment."
        ),
        "tokenizer": Group("Train, fetch and compare tokenizers.", TOKENIZER),
        "train": Command(
            "trainer.commands.pretrain:train",
            "Pretrain from token sets: masked images, masked videos, or both jointly.",
        ),
        "demo": Command(
            "trainer.commands.demo:demo", "Run the whole method in minutes on a laptop, from raw videos to accuracy."
        ),
    },
    "Fine-tune & test": {
        "finetune": Command("trainer.commands.finetune:finetune", "Fine-tune a pretrained encoder to classify videos."),
        "evaluate": Command(
            "trainer.commands.testing:evaluate", "Test a classifier: top-1, top-5 and mean-class accuracy."
        ),
        "predict": Command("trainer.commands.testing:predict", "Predict the classes of videos, with scores."),
        "extract": Command(
            "trainer.commands.probing:extract", "Write the encoder's features of every video to a Parquet file."
        ),
        "probe": Command(
            "trainer.commands.probing:probe", "Test a frozen encoder with k-NN, a linear or an attentive classifier."
        ),
        "analyse": Group("Analyse what a classifier relies on.", ANALYSE),
    },
    "Look": {
        "view": Command(
            "bevt_core.commands.view:view",
            "Look at a dataset, a run or an evaluation in the browser, on this machine only.",
        ),
        "runs": Group("List, show and compare runs, also while they train.", RUNS),
        "viz": Group("Draw one clip: masks, predicted tokens and attention.", VIZ),
    },
    "Share": {
        "push": Command("pipeline.commands.share:push", "Push a dataset, or only its tokens, to the Hugging Face Hub."),
        "pull": Command(
            "pipeline.commands.share:pull", "Download a dataset from the Hugging Face Hub, and check every digest."
        ),
        "report": Command("trainer.commands.runs:report", "Write the paper's result tables with your runs added."),
        "export": Command(
            "trainer.commands.sharing:export", "Export a model: for the Hugging Face Hub, as a program, or as ONNX."
        ),
        "import-checkpoint": Command(
            "trainer.commands.sharing:import_checkpoint",
            "Convert another project's checkpoint; every key is accounted for.",
        ),
    },
    "Measure": {
        "doctor": Command(
            "pipeline.commands.doctor:doctor",
            "Check this machine: versions, GPUs, decoders, limits, disk speed and Ray.",
        ),
        "tune": Command(
            "trainer.commands.bench:tune", "Measure a recipe on this machine, and print its fastest settings."
        ),
        "model": Group("List pretrained models, and count parameters and operations.", MODEL),
        "bench": Group("Measure speed and size, compared with a reference.", BENCH),
    },
}


def _sources() -> "PipelineSources":
    """The pipeline's functions that list raw data, for the trainer's commands."""
    from pipeline import sources
    from trainer.clips.selection import PipelineSources

    return PipelineSources(
        list_sources=sources.list_files,
        check_found=sources.check_found,
        label_by=sources.label_by,
        separates_split=sources.separates_split,
        has_split=sources.has_split,
        split_to_test=sources.split_to_test,
        choose_stored=sources.choose_stored,
    )


def _viewers() -> Iterator[Callable[..., Any]]:
    """The functions that make a site of a path for `bevt view`, or return None for a path of another kind."""
    from pipeline.look.pages.dataset import dataset_site

    yield dataset_site
    from trainer.show.pages.sites import evaluation_site, run_site  # with torch, which a dataset's pages may not need

    yield run_site
    yield evaluation_site


app = App(
    "BERT pretraining of video transformers: tokenize once on Ray, train from shards with DDP.", group_class(PANELS)
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        show(f"bevt {version('bevt')}")
        raise typer.Exit


@app.callback()
def _bevt(
    context: typer.Context,
    version_: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show bevt's version and exit.")
    ] = False,
) -> None:
    context.obj = _sources
    context.meta[VIEWERS] = _viewers

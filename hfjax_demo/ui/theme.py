"""The page's theme: system fonts only, one accent, so that the page needs no network. Knows nothing of what is on it."""

import gradio as gr

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "DejaVu Sans", "sans-serif")
MONO = ("ui-monospace", "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", "Menlo", "Consolas", "monospace")


def make_theme() -> gr.themes.Base:
    """Gradio's plain theme in our colours; every pair of text and ground has a contrast of at least 4.5."""
    return gr.themes.Base(
        primary_hue="blue", neutral_hue="gray", radius_size="sm", spacing_size="md", font=SANS, font_mono=MONO
    ).set(
        body_background_fill="#fbfbfc",
        body_background_fill_dark="#111316",
        body_text_color_subdued="#565d68",
        body_text_color_subdued_dark="#a7adb8",
        block_info_text_color="#565d68",
        block_info_text_color_dark="#a7adb8",
        block_label_text_color="#3d434c",
        block_label_text_color_dark="#c9ced6",
        block_title_text_color="#3d434c",
        block_title_text_color_dark="#c9ced6",
        block_background_fill_dark="#17191d",
        block_border_color_dark="#363b44",
        border_color_primary_dark="#363b44",
        input_background_fill_dark="#202329",
        checkbox_label_background_fill_dark="#262a31",
        button_secondary_background_fill_dark="#262a31",
        button_primary_background_fill="#1d5fd1",
        button_primary_background_fill_hover="#174fb0",
        button_primary_background_fill_dark="#1d5fd1",
        button_primary_background_fill_hover_dark="#2f6fdd",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
    )

"""window.py against brute-force counting, and against the worked numbers of the course notes."""

from math import ceil, prod

import pytest
from hypothesis import assume, settings
from hypothesis import given as given_any
from hypothesis import strategies as st

from striate.window import AdaptiveAxis, Axis, Field, Window, output_size, same_padding


def given(*strategies):
    """Runs without a deadline: a busy machine is not a failure."""
    return lambda test: settings(deadline=None)(given_any(*strategies)(test))


@st.composite
def axes(draw, ceils=(False, True)):
    size, stride, dilation = draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    input, before, after = draw(st.integers(1, 24)), draw(st.integers(0, 9)), draw(st.integers(0, 9))
    output = output_size(input, size, stride, dilation, before, after, draw(st.sampled_from(ceils)))
    assume(output >= 1)
    return Axis(input, output, size, stride, dilation, before, after)


adaptive_axes = st.builds(AdaptiveAxis, st.integers(1, 30), st.integers(1, 30))


def brute_taps(axis, output):
    """(tap, input) for every tap that is inside, by trying them all."""
    pairs = [(tap, output * axis.stride + tap * axis.dilation - axis.before) for tap in range(axis.size)]
    return [(tap, i) for tap, i in pairs if 0 <= i < axis.input]


# Sizes
# ---------------------------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 30), st.integers(1, 7), st.integers(1, 5), st.integers(1, 4), st.integers(0, 8), st.integers(0, 8)
)
def test_output_size_counts_the_starts_whose_last_tap_is_inside_the_padded_input(
    input, size, stride, dilation, before, after
):
    padded = input + before + after
    starts = [s for s in range(0, padded, stride) if s + dilation * (size - 1) <= padded - 1]
    assert max(output_size(input, size, stride, dilation, before, after), 0) == len(starts)


@given(
    st.integers(1, 30), st.integers(1, 7), st.integers(1, 5), st.integers(1, 4), st.integers(0, 8), st.integers(0, 8)
)
def test_ceil_adds_a_window_exactly_where_inputs_are_left_over_and_it_starts_in_front_of_the_padding_behind(
    input, size, stride, dilation, before, after
):
    padded, extent = input + before + after, dilation * (size - 1) + 1
    assume(extent <= padded)
    starts = [s for s in range(0, padded, stride) if s + extent <= padded]
    left_over = starts[-1] + extent < padded
    if left_over:
        starts.append(starts[-1] + stride)
    if starts[-1] >= input + before:
        starts.pop()
    assert output_size(input, size, stride, dilation, before, after, ceil=True) == len(starts)


def test_output_size_is_below_one_where_the_window_is_larger_than_the_padded_input():
    assert output_size(4, 7) == -2
    assert output_size(4, 6, stride=3) == 0
    assert output_size(4, 7, before=2, after=1) == 1


def test_ceil_gives_one_window_to_an_input_that_is_short_by_less_than_the_stride():
    assert output_size(2, 3, stride=2, ceil=True) == 1  # as torch.nn.functional.max_pool1d does
    assert output_size(2, 4, stride=2, ceil=True) == 0


@pytest.mark.parametrize(
    ("input", "size", "stride", "padding", "expected"),
    [
        (32, 5, 1, 2, 32),
        (32, 5, 1, 0, 28),
        (56, 1, 1, 0, 56),
        (64, 3, 1, 0, 62),
        (28, 5, 1, 2, 28),
        (28, 2, 2, 0, 14),
        (227, 3, 2, 0, 113),
    ],
)
def test_sizes_of_the_course_notes(input, size, stride, padding, expected):
    assert output_size(input, size, stride, 1, padding, padding) == expected


def test_lenet_goes_from_28_to_14_to_7_and_2450_features():
    size = 28
    seen = []
    for k, s, p in [(5, 1, 2), (2, 2, 0), (5, 1, 2), (2, 2, 0)]:
        size = output_size(size, k, s, before=p, after=p)
        seen.append(size)
    assert seen == [28, 14, 14, 7]
    assert 50 * size * size == 2450


def test_two_conv_network_ends_at_8_pixels():
    size = 32
    for k, s, p in [(3, 1, 1), (2, 2, 0)] * 2:
        size = output_size(size, k, s, before=p, after=p)
    assert size == 8


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 6), st.integers(1, 4))
def test_same_padding_gives_ceil_of_input_over_stride(input, size, stride, dilation):
    before, after = same_padding(input, size, stride, dilation)
    assert 0 <= before <= after <= before + 1
    if before or after:
        assert output_size(input, size, stride, dilation, before, after) == ceil(input / stride)
    else:  # nothing to add: the windows already fit, perhaps with inputs left over
        assert output_size(input, size, stride, dilation) >= ceil(input / stride)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 6), st.integers(1, 4))
def test_same_padding_is_the_smallest_that_does(input, size, stride, dilation):
    total = sum(same_padding(input, size, stride, dilation))
    assume(total)
    assert output_size(input, size, stride, dilation, 0, total - 1) < ceil(input / stride)


@given(st.integers(1, 40), st.integers(0, 5))
def test_same_padding_of_an_odd_window_at_stride_one_is_half_of_it_on_both_sides(input, half):
    assert same_padding(input, 2 * half + 1) == (half, half)


# One axis
# ------------------------------------------------------------------------------------------------------------------


@given(axes())
def test_taps_are_the_inputs_that_brute_force_finds(axis):
    for o in range(axis.output):
        expected = brute_taps(axis, o)
        assert list(axis.valid_taps(o)) == [tap for tap, _ in expected]
        assert axis.taps(o) == [i for _, i in expected]


@given(axes())
def test_outputs_is_the_adjoint_of_taps(axis):
    forward = {(o, tap, axis.position(o, tap)) for o in range(axis.output) for tap in axis.valid_taps(o)}
    backward = [(o, tap, i) for i in range(axis.input) for o, tap in axis.outputs(i)]
    assert len(backward) == len(set(backward))
    assert set(backward) == forward


@given(axes())
def test_outputs_come_in_rising_order(axis):
    for i in range(axis.input):
        assert axis.outputs(i) == sorted(axis.outputs(i))


@given(axes())
def test_interior_is_exactly_the_outputs_without_a_tap_in_the_padding(axis):
    assert list(axis.interior) == [o for o in range(axis.output) if len(brute_taps(axis, o)) == axis.size]
    assert 0 <= axis.interior.start <= axis.interior.stop <= axis.output  # so that the edges lie on both sides of it


@given(axes())
def test_tap_count_is_the_sum_over_all_outputs(axis):
    assert axis.tap_count == sum(len(brute_taps(axis, o)) for o in range(axis.output))


@given(axes())
def test_counted_divides_by_the_taps_in_the_input_and_its_padding_but_none_beyond(axis):
    for o in range(axis.output):
        at = [axis.position(o, tap) for tap in range(axis.size)]
        assert axis.counted(o) == sum(-axis.before <= i < axis.input + axis.after for i in at)
        assert axis.counted(o, include_pad=False) == sum(0 <= i < axis.input for i in at)


def test_counted_leaves_out_what_ceil_has_put_behind_the_padding():
    axis = Axis(input=4, output=output_size(4, 3, 2, 1, 1, 1, ceil=True), size=3, stride=2, before=1, after=1)
    assert axis.output == 3
    assert [axis.counted(o) for o in range(3)] == [3, 3, 2]
    assert [axis.counted(o, include_pad=False) for o in range(3)] == [2, 3, 1]


def test_stride_larger_than_the_window_skips_inputs():
    axis = Axis(input=10, output=output_size(10, 2, 4), size=2, stride=4)
    assert [axis.taps(o) for o in range(axis.output)] == [[0, 1], [4, 5], [8, 9]]
    assert [i for i in range(10) if not axis.outputs(i)] == [2, 3, 6, 7]


def test_window_wholly_in_the_padding_has_no_taps():
    axis = Axis(input=2, output=5, size=2, stride=2, before=4, after=4)
    assert [axis.taps(o) for o in range(5)] == [[], [], [0, 1], [], []]
    assert axis.interior == range(2, 3) and axis.tap_count == 2


def test_no_output_is_interior_where_the_window_is_larger_than_the_input():
    axis = Axis(input=2, output=2, size=5, before=2, after=2)
    assert len(axis.interior) == 0
    assert axis.tap_count == 4


@given(axes())
def test_extent_is_the_distance_of_the_last_tap_from_the_first_and_one(axis):
    assert axis.extent == axis.position(0, axis.size - 1) - axis.position(0, 0) + 1


# Adaptive axes
# -------------------------------------------------------------------------------------------------------------


@given(adaptive_axes)
def test_adaptive_windows_run_from_the_floor_to_the_ceiling_and_cover_every_input(axis):
    covered = set()
    for o in range(axis.output):
        expected = [
            i
            for i in range(axis.input)
            if i + 1 > o * axis.input / axis.output and i < (o + 1) * axis.input / axis.output
        ]
        assert axis.taps(o) == expected
        assert axis.counted(o) == axis.counted(o, include_pad=False) == len(expected) >= 1
        covered.update(expected)
    assert covered == set(range(axis.input))


@given(adaptive_axes)
def test_adaptive_outputs_is_the_adjoint_of_adaptive_taps(axis):
    forward = {(o, tap, i) for o in range(axis.output) for tap, i in enumerate(axis.taps(o))}
    backward = [(o, tap, i) for i in range(axis.input) for o, tap in axis.outputs(i)]
    assert len(backward) == len(set(backward))
    assert set(backward) == forward


@given(st.integers(1, 12), st.integers(1, 6))
def test_adaptive_axis_that_divides_evenly_is_a_window(output, size):
    even, window = AdaptiveAxis(output * size, output), Axis(output * size, output, size, stride=size)
    assert [even.taps(o) for o in range(output)] == [window.taps(o) for o in range(output)]


# Windows
# -------------------------------------------------------------------------------------------------------------------


@given(st.lists(axes(), min_size=1, max_size=3))
def test_window_is_its_axes_side_by_side(some):
    w = Window(tuple(some))
    assert list(w) == some
    for name in ("input", "output", "size", "stride", "dilation", "before", "after"):
        assert getattr(w, name) == tuple(getattr(a, name) for a in some)
    assert w.taps == prod(a.size for a in some)
    assert w.tap_count == prod(sum(len(brute_taps(a, o)) for o in range(a.output)) for a in some)


def square(input, size, stride=1, padding=0):
    return Window(
        (Axis(input, output_size(input, size, stride, 1, padding, padding), size, stride, 1, padding, padding),) * 2
    )


def macs(window, channels_in, channels_out):
    """Multiplications as the course notes count them: every tap multiplies, in the padding too."""
    return prod(window.output) * window.taps * channels_in * channels_out


def test_five_by_five_layer_of_the_notes_takes_768000_macs():
    w = square(32, 5, padding=2)
    assert w.output == (32, 32)
    assert 3 * w.taps == 75
    assert macs(w, 3, 10) == 768_000
    assert w.tap_count * 3 * 10 == 30 * (32 * 5 - 6) ** 2 == 711_480  # without the multiplications by padding


def test_bottleneck_of_the_notes_takes_3_6_times_fewer_macs():
    whole, first, second = macs(square(64, 3), 256, 256), macs(square(64, 1), 256, 64), macs(square(64, 3), 64, 256)
    assert (whole, first, second) == (2_267_283_456, 67_108_864, 566_820_864)
    assert first + second == 633_929_728
    assert round(whole / (first + second), 1) == 3.6
    assert square(64, 3).tap_count * 256 * 256 == whole  # no padding: both counts agree


def test_separable_layer_of_the_notes_takes_8_69_times_fewer_macs():
    three, one = square(32, 3, padding=1), square(32, 1)
    standard, depthwise, pointwise = macs(three, 128, 256), macs(three, 1, 128), macs(one, 128, 256)
    assert (standard, depthwise, pointwise) == (301_989_888, 1_179_648, 33_554_432)
    assert round(standard / (depthwise + pointwise), 2) == 8.69


def test_lenet_of_the_notes_takes_6522000_macs():
    convolutions = macs(square(28, 5, padding=2), 1, 20), macs(square(14, 5, padding=2), 20, 50)
    assert convolutions == (392_000, 4_900_000)
    assert sum(convolutions) + 2450 * 500 + 500 * 10 == 6_522_000


# Receptive fields
# ----------------------------------------------------------------------------------------------------------


def brute_field(stack, output):
    """The interval of positions that an output sees, traced back through the stack tap by tap, padding included."""
    seen = {output}
    for axis in reversed(stack):
        seen = {axis.position(o, tap) for o in seen for tap in range(axis.size)}
    return min(seen), max(seen)


def stacks_of(strides):
    """Any windows with these strides."""
    axis = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 3))
    return st.lists(axis, min_size=len(strides), max_size=len(strides)).map(
        lambda drawn: [
            Axis(9, 9, size, stride, dilation, before)
            for stride, (size, dilation, before) in zip(strides, drawn, strict=True)
        ]
    )


strides = st.lists(st.integers(1, 3), max_size=5)
stacks = strides.flatmap(stacks_of)
branches = strides.flatmap(lambda s: st.tuples(stacks_of(s), stacks_of(s)))  # that meet: their strides agree


def field_of(stack):
    field = Field()
    for axis in stack:
        field = field.then(axis.look)
    return field


@given(stacks, st.integers(0, 7))
def test_field_is_the_interval_that_brute_force_finds(stack, output):
    field = field_of(stack)
    assert (field.first(output), field.last(output)) == brute_field(stack, output)


@given(stacks)
def test_jump_is_the_product_of_the_strides(stack):
    assert field_of(stack).jump == prod(a.stride for a in stack)


@given(branches, st.integers(0, 7))
def test_union_covers_both_branches_and_no_more(pair, output):
    left, right = pair
    a, b = field_of(left), field_of(right)
    both = a.union(b)
    (a_first, a_last), (b_first, b_last) = brute_field(left, output), brute_field(right, output)
    assert (both.first(output), both.last(output)) == (min(a_first, b_first), max(a_last, b_last))
    assert both == b.union(a)


def test_union_of_a_residual_block_is_the_field_of_its_longer_branch():
    three = Axis(32, 32, size=3, before=1, after=1)
    assert Field().union(field_of([three, three])) == Field.of(size=5, jump=1, start=-2)


def test_branches_with_other_jumps_cannot_meet():
    with pytest.raises(ValueError, match="branches that meet have the same jump, got 2 and 1"):
        Field.of(jump=2).union(Field.of(jump=1))


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("layers", [1, 2, 3, 10])
def test_field_of_a_stack_at_stride_one_is_one_plus_layers_times_size_less_one(layers, size):
    assert field_of([Axis(64, 64, size)] * layers).size == 1 + layers * (size - 1)


def test_512_layers_of_three_cover_1024_pixels_and_511_do_not():
    three = Axis(1024, 1024, size=3, before=1, after=1)
    assert field_of([three] * 512).size == 1025
    assert field_of([three] * 511).size == 1023


def test_field_of_lenet_is_16_pixels_with_a_jump_of_4():
    five, two = Axis(28, 28, 5, before=2, after=2), Axis(28, 14, 2, stride=2)
    assert field_of([five, two, five, two]) == Field.of(size=16, jump=4, start=-6)

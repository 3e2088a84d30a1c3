// MRN of all pairs of rows: both sides' gradients. Included by mrn.cpp.
//
// Rows meet all lanes one panel at a time, in two steps. The first finds the slope and the largest difference of each
// pair and component. The second walks the values: one difference, times the slope, is added to the gradient of the
// lane, which stays in a register for all rows of the panel, and to that of the row, a vector across lanes that is
// summed at the end. Each gradient is summed in one order, for any number of threads.
//
// Floor: 2 + 3 operations per element and pair of the symmetric part, two and a half times the forward. The three are a
// subtraction and two multiply-adds, one in three of which is split: processors that add and multiply in different
// units (Zen 4) then keep both busy, for 1 2/3 cycles per vector after 1 for the slopes. The asymmetric part is
// searched once, with four operations to the forward's two.
#pragma once

#include "mrn_pair_slopes.h"

namespace qmk::QMK_TARGET {

namespace {

constexpr int64_t most_panel_rows = 48, rows_per_tile = 4, tiles_per_task = 4, blocks_per_tile = 3;

// A strip of blocks sums up its own part of the rows' gradient.
constexpr int64_t blocks_per_strip = 48, values_per_chunk = 16;

// The inputs of a call. Gradients are those of x here; those of y are their negatives.
template <class T>
struct BackwardMemory {
    T* packed;
    Lanes<T>* of_lanes;  // their gradient, in the same layout
    T* of_rows;          // the panel's, [strip][row of the panel][value]
    PairSlopes<T> slopes;
};

// The sizes of a call's matrices and of their pieces.
template <class T>
struct PanelSizes {
    int64_t batch, num_rows, num_lane_rows, dim, num_components, size, num_blocks, num_strips, panel_rows;

    PanelSizes(const MrnPairwiseShape& shape, const MrnSettings& settings)
        : batch(shape.batch),
          num_rows(lanes_are_better_x<T>(shape) ? shape.num_y : shape.num_x),
          num_lane_rows(lanes_are_better_x<T>(shape) ? shape.num_x : shape.num_y),
          dim(shape.dim),
          num_components(settings.num_components),
          size(dim / num_components),
          num_blocks(qmk::QMK_TARGET::num_blocks<T>(num_lane_rows)),
          num_strips((num_blocks + blocks_per_strip - 1) / blocks_per_strip) {
        // Otherwise the slopes of small components would be many times as large as the inputs.
        panel_rows = size / 2 < most_panel_rows ? size / 2 / rows_per_tile * rows_per_tile : most_panel_rows;
        panel_rows = panel_rows > 2 * rows_per_tile ? panel_rows : 2 * rows_per_tile;
        panel_rows = panel_rows < num_rows ? panel_rows : num_rows;
    }
    int64_t pairs() const { return num_components * num_blocks * panel_rows; }
    int64_t packed() const { return num_blocks * dim; }
    int64_t row_sums() const { return num_strips * panel_rows * dim; }

    BackwardMemory<T> take(Workspace& workspace) const {
        return {workspace.take<T>(batch * packed() * num_lanes<T>),
                workspace.take<Lanes<T>>(batch * packed()),
                workspace.take<T>(batch * row_sums()),
                {workspace.take<Lanes<T>>(batch * pairs()), workspace.take<Lanes<T>>(batch * pairs()),
                 workspace.take<IndexLanes<T>>(batch * pairs())}};
    }
};

// Adds the symmetric part's gradient for `width` values of the panel's rows and V blocks: to the lanes, and to the
// rows, [row][value], summed over the lanes of `counted`.
template <class T, int V, int width, bool lanes_are_x, bool shifts>
void add_symmetric(const T* rows, int64_t num_rows, int64_t dim, const T* lanes, const Lanes<T>* slopes,
                   int64_t slopes_stride, T shift, IndexLanes<T> counted, Lanes<T>* of_lanes, Lanes<T>* of_rows) {
    Lanes<T> lane[V][width], sums[V][width];
    for (int v = 0; v < V; ++v)
        for (int d = 0; d < width; ++d) {
            lane[v][d] = load<Lanes<T>>(lanes + (v * dim + d) * num_lanes<T>);
            sums[v][d] = of_lanes[v * dim + d];
        }
    for (int64_t r = 0; r < num_rows; ++r) {
        Lanes<T> slope[V];
        for (int v = 0; v < V; ++v) slope[v] = slopes[v * slopes_stride + r];
        for (int d = 0; d < width; ++d) {
            Lanes<T> total = of_rows[r * width + d];
            for (int v = 0; v < V; ++v) {
                Lanes<T> product =
                    slope[v] * symmetric_difference<T, lanes_are_x, shifts>(rows + r * dim + d, lane[v][d], shift);
                if (V == 1) product = counted ? product : Lanes<T>{};
                if (v == 0) product = rounded(product);  // so that additions and multiply-adds wait less for each other
                total += product;
                sums[v][d] += product;
            }
            of_rows[r * width + d] = total;
        }
    }
    for (int v = 0; v < V; ++v)
        for (int d = 0; d < width; ++d) of_lanes[v * dim + d] = sums[v][d];
}

// A panel of a matrix and a strip of its blocks.
template <class T>
struct Panel {
    const T *rows, *lanes;
    int64_t num_rows, num_blocks, last_lanes, dim;  // last_lanes: rows in the last block
    PairSlopes<T> slopes;
    int64_t slopes_stride;
    Lanes<T>* of_lanes;
    T* of_rows;
};

// Handles `width` values from `value` on, with the slopes of their component.
template <class T, int width, bool lanes_are_x, bool shifts>
void symmetric_values(const Panel<T>& panel, int64_t value, T shift) {
    constexpr int n = num_lanes<T>, V = blocks_per_tile;
    Lanes<T> totals[most_panel_rows * width + n];
    for (int64_t i = 0; i < panel.num_rows * width + n; ++i) totals[i] = Lanes<T>{};
    const auto add = [&](auto blocks, int64_t block) {
        IndexLanes<T> counted{};
        for (int lane = 0; lane < n; ++lane)
            counted[lane] = block + 1 < panel.num_blocks || lane < panel.last_lanes ? -1 : 0;
        const int64_t at = block * panel.dim + value;
        add_symmetric<T, decltype(blocks)::value, width, lanes_are_x, shifts>(
            panel.rows + value, panel.num_rows, panel.dim, panel.lanes + at * n,
            panel.slopes.slope + block * panel.slopes_stride, panel.slopes_stride, shift, counted, panel.of_lanes + at,
            totals);
    };
    const int64_t num_full = panel.num_blocks - (panel.last_lanes < n);
    int64_t block = 0;
    for (; block + V <= num_full; block += V) add(std::integral_constant<int, V>{}, block);
    for (; block < panel.num_blocks; ++block) add(std::integral_constant<int, 1>{}, block);
    T sums[most_panel_rows * width + n];
    for (int64_t i = 0; i < panel.num_rows * width; i += n) store(sums + i, sums_of_vectors<T>(totals + i));
    for (int64_t r = 0; r < panel.num_rows; ++r)
        for (int d = 0; d < width; ++d) panel.of_rows[r * panel.dim + value + d] = sums[r * width + d];
}

template <class T, bool lanes_are_x, bool shifts>
void add_symmetric_part(const Panel<T>& panel, int64_t begin, int64_t end, T shift) {
    constexpr int width = QMK_LANE_BYTES == 64 ? 4 : 1;  // limited by the registers
    int64_t value = begin;
    for (; value + width <= end; value += width) symmetric_values<T, width, lanes_are_x, shifts>(panel, value, shift);
    for (; value < end; ++value) symmetric_values<T, 1, lanes_are_x, shifts>(panel, value, shift);
}

// Adds the gradient of the largest differences of the component that begins with `value`.
template <class T>
void add_asymmetric_part(const Panel<T>& panel, int64_t value, MrnPart part) {
    constexpr int n = num_lanes<T>;
    for (int64_t r = 0; r < panel.num_rows; ++r)
        for (int64_t d = part.begin; d < part.end; ++d) panel.of_rows[r * panel.dim + value + d] = T(0);
    for (int64_t block = 0; block < panel.num_blocks; ++block) {
        const int64_t count = block + 1 < panel.num_blocks ? n : panel.last_lanes;
        const PairSlopes<T> slopes = panel.slopes.at(block * panel.slopes_stride);
        T* of_lanes = reinterpret_cast<T*>(panel.of_lanes + block * panel.dim + value);
        for (int64_t r = 0; r < panel.num_rows; ++r) {
            T* of_row = panel.of_rows + r * panel.dim + value;
            for (int64_t lane = 0; lane < count; ++lane) {
                const int64_t place = slopes.where[r][lane];
                of_row[place] += slopes.upstream[r][lane];
                of_lanes[place * n + lane] += slopes.upstream[r][lane];
            }
        }
    }
}

// A call in terms of rows and lanes, and its memory.
template <class T, bool lanes_are_x>
struct MatrixBackward {
    const MrnSettings& settings;
    const PanelSizes<T>& sizes;
    const BackwardMemory<T>& memory;
    const T *grad_out, *rows;
    T *grad_rows, *grad_lanes;
    int64_t matrix;   // of grad_out
    Strides strides;  // of grad_out
    int threads;
};

// The rows of a panel in every matrix of the batch.
struct PanelRows {
    int64_t first, count;
    int threads;
};

// The first step: the slopes of all pairs of a panel.
template <class T, bool lanes_are_x, bool finite>
void find_slopes(const MatrixBackward<T, lanes_are_x>& call, PanelRows panel) {
    constexpr int R = rows_per_tile, V = blocks_per_tile;
    const PanelSizes<T>& sizes = call.sizes;
    const int64_t dim = sizes.dim, num_components = sizes.num_components, num_blocks = sizes.num_blocks;
    const MrnRoot<T> root(call.settings, sizes.size);
    const int64_t groups = (num_blocks + V - 1) / V,
                  row_tasks = (panel.count + R * tiles_per_task - 1) / (R * tiles_per_task);
    parallel_for(sizes.batch * num_components * groups * row_tasks, panel.threads, [&](int64_t task) {
        const int64_t first_tile_row = task % row_tasks * R * tiles_per_task, group = task / row_tasks % groups;
        const int64_t c = task / (row_tasks * groups) % num_components,
                      b = task / (row_tasks * groups * num_components);
        const Sides<T> sides{call.rows + b * sizes.num_rows * dim,
                             sizes.num_rows,
                             call.memory.packed + b * sizes.packed() * num_lanes<T>,
                             sizes.num_lane_rows,
                             dim,
                             lanes_are_x};
        const int64_t end_block = (group + 1) * V < num_blocks ? (group + 1) * V : num_blocks;
        const int64_t end_row =
            first_tile_row + R * tiles_per_task < panel.count ? first_tile_row + R * tiles_per_task : panel.count;
        const auto find = [&](auto num_rows, auto blocks, int64_t row, int64_t block) {
            slopes_of_tile<T, decltype(num_rows)::value, decltype(blocks)::value, lanes_are_x, finite>(
                sides, panel.first + row, block, c, call.settings, root, call.grad_out + b * call.matrix, call.strides,
                call.memory.slopes.at(((b * num_components + c) * num_blocks + block) * sizes.panel_rows + row),
                sizes.panel_rows);
        };
        const auto find_blocks = [&](auto num_rows, int64_t row) {
            int64_t block = group * V;
            for (; block + V <= end_block; block += V) find(num_rows, std::integral_constant<int, V>{}, row, block);
            for (; block < end_block; ++block) find(num_rows, std::integral_constant<int, 1>{}, row, block);
        };
        int64_t row = first_tile_row;
        for (; row + R <= end_row; row += R) find_blocks(std::integral_constant<int, R>{}, row);
        for (; row < end_row; ++row) find_blocks(std::integral_constant<int, 1>{}, row);
    });
}

// The second step: adds the pairs of a panel to the lanes' gradient, and computes each strip's part of the rows'. A
// task owns some values of a component in a strip, which no other task reads or writes.
template <class T, bool lanes_are_x>
void add_panel(const MatrixBackward<T, lanes_are_x>& call, PanelRows rows_of_panel) {
    constexpr int n = num_lanes<T>;
    const PanelSizes<T>& sizes = call.sizes;
    const BackwardMemory<T>& memory = call.memory;
    const int64_t dim = sizes.dim, size = sizes.size, num_components = sizes.num_components;
    const int64_t num_blocks = sizes.num_blocks, num_strips = sizes.num_strips, panel_rows = sizes.panel_rows;
    const MrnPart asymmetric = mrn_asymmetric_part(call.settings, size),
                  symmetric = mrn_symmetric_part(call.settings, size);
    const T shift = mrn_shift<T>(call.settings);
    const int64_t chunks = (symmetric.end - symmetric.begin + values_per_chunk - 1) / values_per_chunk;
    const int64_t parts = chunks + (asymmetric.end > asymmetric.begin);
    parallel_for(sizes.batch * num_strips * num_components * parts, rows_of_panel.threads, [&](int64_t task) {
        const int64_t part = task % parts, c = task / parts % num_components;
        const int64_t strip = task / (parts * num_components) % num_strips,
                      b = task / (parts * num_components * num_strips);
        const int64_t first_block = strip * blocks_per_strip;
        const int64_t end_block =
            first_block + blocks_per_strip < num_blocks ? first_block + blocks_per_strip : num_blocks;
        const int64_t left = sizes.num_lane_rows - (end_block - 1) * n;
        const Panel<T> panel{call.rows + (b * sizes.num_rows + rows_of_panel.first) * dim,
                             memory.packed + (b * num_blocks + first_block) * dim * n,
                             rows_of_panel.count,
                             end_block - first_block,
                             left < n ? left : n,
                             dim,
                             memory.slopes.at(((b * num_components + c) * num_blocks + first_block) * panel_rows),
                             panel_rows,
                             memory.of_lanes + (b * num_blocks + first_block) * dim,
                             memory.of_rows + (b * num_strips + strip) * panel_rows * dim};
        if (part == chunks) return add_asymmetric_part(panel, c * size, asymmetric);
        const int64_t begin = symmetric.begin + part * values_per_chunk;
        const int64_t end = begin + values_per_chunk < symmetric.end ? begin + values_per_chunk : symmetric.end;
        const auto add =
            shift == T(0) ? add_symmetric_part<T, lanes_are_x, false> : add_symmetric_part<T, lanes_are_x, true>;
        add(panel, c * size + begin, c * size + end, shift);
    });
}

// The gradient of a panel's rows: the sum of the strips' parts.
template <class T, bool lanes_are_x>
void write_rows(const MatrixBackward<T, lanes_are_x>& call, PanelRows panel) {
    const PanelSizes<T>& sizes = call.sizes;
    const int64_t dim = sizes.dim, num_strips = sizes.num_strips, panel_rows = sizes.panel_rows;
    const int threads = threads_for(sizes.batch * panel.count * num_strips * dim, 1 << 15, call.threads);
    parallel_for(sizes.batch * panel.count, threads, [&](int64_t task) {
        const int64_t b = task / panel.count, r = task % panel.count;
        T* to = call.grad_rows + (b * sizes.num_rows + panel.first + r) * dim;
        const T* from = call.memory.of_rows + (b * num_strips * panel_rows + r) * dim;
        for (int64_t strip = 0; strip < num_strips; ++strip, from += panel_rows * dim)
            for (int64_t d = 0; d < dim; ++d) {
                const T sum = lanes_are_x ? -from[d] : from[d];
                to[d] = strip == 0 ? sum : to[d] + sum;
            }
    });
}

// The gradient of the lanes' rows, after the last panel.
template <class T, bool lanes_are_x>
void write_lanes(const MatrixBackward<T, lanes_are_x>& call) {
    constexpr int n = num_lanes<T>;
    const PanelSizes<T>& sizes = call.sizes;
    const int64_t dim = sizes.dim, num_blocks = sizes.num_blocks;
    const int threads = threads_for(sizes.batch * sizes.num_lane_rows * dim, 1 << 15, call.threads);
    parallel_for(sizes.batch * num_blocks, threads, [&](int64_t task) {
        const int64_t b = task / num_blocks, first = task % num_blocks * n;
        const Lanes<T>* from = call.memory.of_lanes + task * dim;
        for (int64_t d = 0; d < dim; d += n) {
            const int64_t width = n < dim - d ? n : dim - d;
            Lanes<T> columns[n];  // `width` values of each lane
            load_columns(reinterpret_cast<const T*>(from + d), n, int(width) - 1, n, columns);
            for (int64_t lane = 0; lane < n && first + lane < sizes.num_lane_rows; ++lane) {
                T* to = call.grad_lanes + (b * sizes.num_lane_rows + first + lane) * dim + d;
                store_lanes(to, 1, width, lanes_are_x ? columns[lane] : -columns[lane]);
            }
        }
    });
}

template <class T, bool lanes_are_x, bool finite>
void matrix_backward(const MrnPairwiseBackward<T>& given, int threads) {
    const PanelSizes<T> sizes(given.shape, given.settings);
    const int64_t values = given.settings.reduction == MrnReduction::none ? sizes.num_components : 1;
    const int64_t of_x = given.shape.num_y * values;
    Workspace workspace{static_cast<char*>(given.scratch)};
    const BackwardMemory<T> memory = sizes.take(workspace);
    const MatrixBackward<T, lanes_are_x> call{given.settings,
                                              sizes,
                                              memory,
                                              given.grad_out,
                                              lanes_are_x ? given.y : given.x,
                                              lanes_are_x ? given.grad_y : given.grad_x,
                                              lanes_are_x ? given.grad_x : given.grad_y,
                                              given.shape.num_x * of_x,
                                              lanes_are_x ? Strides{values, of_x} : Strides{of_x, values},
                                              threads};
    pack_lanes(lanes_are_x ? given.x : given.y, sizes.batch, sizes.num_lane_rows, sizes.dim, memory.packed, threads);
    for (int64_t i = 0; i < sizes.batch * sizes.packed(); ++i) memory.of_lanes[i] = Lanes<T>{};
    for (int64_t first = 0; first < sizes.num_rows; first += sizes.panel_rows) {
        const int64_t left = sizes.num_rows - first, count = sizes.panel_rows < left ? sizes.panel_rows : left;
        const int useful = threads_for(sizes.batch * count * sizes.num_lane_rows * sizes.dim, 1 << 17, threads);
        const PanelRows panel{first, count, useful};
        find_slopes<T, lanes_are_x, finite>(call, panel);
        add_panel(call, panel);
        write_rows(call, panel);
    }
    write_lanes(call);
}

template <class T>
void backward_of_one_row(const MrnPairwiseBackward<T>& call, int threads) {
    const int64_t items = call.settings.reduction == MrnReduction::none ? call.settings.num_components : 1;
    const auto sides = many_and_one(call.shape, call.shape.dim, call.x, call.y);
    Workspace workspace{static_cast<char*>(call.scratch)};
    double* parts = take_parts(workspace, sides);
    const auto run = [&](const Piece<T>& piece, T* grad_x, T* grad_y) {
        const T* grad_out = call.grad_out + piece.first * items;
        mrn_backward<T>({grad_out, piece.x, piece.y, grad_x, grad_y, piece.rows, sides.dim, call.settings}, 1);
    };
    one_row_backward<OneGradient::opposite>(sides, call.grad_x, call.grad_y, parts, threads, run);
}

}  // namespace

template <class T>
int64_t mrn_pairwise_backward_scratch(const MrnPairwiseBackward<T>& call) {
    Workspace workspace{nullptr};
    if (has_one_row(call.shape))
        take_parts(workspace, many_and_one(call.shape, call.shape.dim, call.x, call.y));
    else
        PanelSizes<T>(call.shape, call.settings).take(workspace);
    return workspace.used;
}

template <class T>
void mrn_pairwise_backward(const MrnPairwiseBackward<T>& call, int threads) {
    if (has_one_row(call.shape)) return backward_of_one_row(call, threads);
    const bool finite = inputs_are_finite(call.x, call.y, call.shape, threads);
    if (lanes_are_better_x<T>(call.shape))
        (finite ? matrix_backward<T, true, true> : matrix_backward<T, true, false>)(call, threads);
    else
        (finite ? matrix_backward<T, false, true> : matrix_backward<T, false, false>)(call, threads);
}

}  // namespace qmk::QMK_TARGET

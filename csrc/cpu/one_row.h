// Pairs of many rows with one, in every matrix of a batch: the pairwise form of candidates and a goal.
//
// Layouts for all pairs would copy the many rows, for a single use. Here the loops of matching rows go through the many
// piece by piece, against copies of the one row that stay in the cache. Floor: reading the many once and, backward,
// writing their gradient.
#pragma once

#include "lanes.h"
#include "parallel.h"
#include "workspace.h"

namespace qmk::QMK_TARGET {

namespace {

// `count` rows of dim values in each of `batch` matrices, and each matrix's one row.
template <class T>
struct ManyAndOne {
    const T *many, *one;
    bool one_is_x;
    int64_t batch, count, dim;
};

// Whether a side of the matrices is a single row. Shape is a pairwise shape.
template <class Shape>
bool has_one_row(const Shape& shape) {
    return shape.num_x == 1 || shape.num_y == 1;
}

template <class Shape, class T>
ManyAndOne<T> many_and_one(const Shape& shape, int64_t dim, const T* x, const T* y) {
    if (shape.num_y == 1) return {x, y, false, shape.batch, shape.num_x, dim};
    return {y, x, true, shape.batch, shape.num_y, dim};
}

// Some of a matrix's pairs: rows of x and y that match, the first of which is pair `first` of the batch.
template <class T>
struct Piece {
    const T *x, *y;
    int64_t matrix, first, rows;
};

// A task goes through pieces of one matrix with the same copies; a piece and the copies fit the first-level cache.
struct PiecesOfTasks {
    int64_t rows_per_piece, rows_per_task, tasks_per_matrix;

    template <class T>
    explicit PiecesOfTasks(const ManyAndOne<T>& sides) {
        constexpr int64_t values_per_piece = 1 << 12, pieces_per_task = 16;
        const int64_t most = sides.dim < values_per_piece ? values_per_piece / sides.dim : 1;
        rows_per_piece = most < sides.count ? most : sides.count;
        rows_per_task = pieces_per_task * rows_per_piece;
        tasks_per_matrix = (sides.count + rows_per_task - 1) / rows_per_task;
    }
};

// Calls run(piece) for every piece of a task, in their order.
template <class T, class Run>
void for_each_piece(const ManyAndOne<T>& sides, const PiecesOfTasks& pieces, int64_t task, T* copies, Run&& run) {
    const int64_t dim = sides.dim, matrix = task / pieces.tasks_per_matrix;
    const int64_t begin = task % pieces.tasks_per_matrix * pieces.rows_per_task;
    const int64_t end = begin + pieces.rows_per_task < sides.count ? begin + pieces.rows_per_task : sides.count;
    for (int64_t row = 0; row < pieces.rows_per_piece && row < end - begin; ++row)
        __builtin_memcpy(copies + row * dim, sides.one + matrix * dim, dim * sizeof(T));
    for (int64_t row = begin; row < end; row += pieces.rows_per_piece) {
        const int64_t rows = pieces.rows_per_piece < end - row ? pieces.rows_per_piece : end - row;
        const int64_t first = matrix * sides.count + row;
        const T* many = sides.many + first * dim;
        run(Piece<T>{sides.one_is_x ? copies : many, sides.one_is_x ? many : copies, matrix, first, rows});
    }
}

template <class T, class Run>
void one_row_forward(const ManyAndOne<T>& sides, int threads, Run&& run) {
    const PiecesOfTasks pieces(sides);
    const int wanted_threads = threads_for(sides.batch * sides.count * sides.dim, 1 << 15, threads);
    parallel_for(sides.batch * pieces.tasks_per_matrix, wanted_threads, [&](int64_t task) {
        const auto copies =
            scratch([&](Workspace& workspace) { return workspace.take<T>(pieces.rows_per_piece * sides.dim); });
        for_each_piece(sides, pieces, task, copies.pieces, run);
    });
}

// The gradients of the one rows, as sums of the tasks' parts.
template <class T>
double* take_parts(Workspace& workspace, const ManyAndOne<T>& sides) {
    return workspace.take<double>(sides.batch * PiecesOfTasks(sides).tasks_per_matrix * sides.dim);
}

// Adds the sum of `count` rows, times sign, to `to`; a piece's sum is in T, that of pieces in double.
template <class T>
void add_rows(const T* rows, int64_t count, int64_t dim, T sign, double* to) {
    constexpr int n = num_lanes<T>, part_lanes = num_lanes<double>;
    int64_t d = 0;
    for (; d + n <= dim; d += n) {
        Lanes<T> sums{};
        for (int64_t row = 0; row < count; ++row) sums += load<Lanes<T>>(rows + row * dim + d);
        for (int part = 0; part < num_parts<T>; ++part) {
            double* at = to + d + part * part_lanes;
            store(at, load<Lanes<double>>(at) + part_in_double<T>(sign * sums, part));
        }
    }
    for (; d < dim; ++d) {
        T sum = T(0);
        for (int64_t row = 0; row < count; ++row) sum += rows[row * dim + d];
        to[d] += double(sign * sum);
    }
}

// The gradient of the one row: from those of its copies, which `run` writes too, or the opposite of the many's.
enum class OneGradient { of_copies, opposite };

// A task's memory: copies of the one row, and their gradients or null.
template <class T>
struct Copies {
    T *values, *grads;
};

// run(piece, grad_x, grad_y) writes the gradients of a piece's rows; that of copies is null if it is not needed.
template <OneGradient one_gradient = OneGradient::of_copies, class T, class Run>
void one_row_backward(const ManyAndOne<T>& sides, T* grad_x, T* grad_y, double* parts, int threads, Run&& run) {
    const PiecesOfTasks pieces(sides);
    constexpr bool writes_copies = one_gradient == OneGradient::of_copies;
    const int64_t dim = sides.dim, tasks = pieces.tasks_per_matrix, values = pieces.rows_per_piece * dim;
    T *grad_many = sides.one_is_x ? grad_y : grad_x, *grad_one = sides.one_is_x ? grad_x : grad_y;
    const int wanted_threads = threads_for(sides.batch * sides.count * dim, 1 << 15, threads);
    parallel_for(sides.batch * tasks, wanted_threads, [&](int64_t task) {
        const auto memory = scratch([&](Workspace& workspace) {
            T* copies = workspace.take<T>(values);
            return Copies<T>{copies, writes_copies ? workspace.take<T>(values) : nullptr};
        });
        double* part = parts + task * dim;
        for (int64_t d = 0; d < dim; ++d) part[d] = 0;
        for_each_piece(sides, pieces, task, memory.pieces.values, [&](const Piece<T>& piece) {
            T *of_many = grad_many + piece.first * dim, *of_copies = memory.pieces.grads;
            run(piece, sides.one_is_x ? of_copies : of_many, sides.one_is_x ? of_many : of_copies);
            add_rows(writes_copies ? of_copies : of_many, piece.rows, dim, T(writes_copies ? 1 : -1), part);
        });
    });
    for (int64_t matrix = 0; matrix < sides.batch; ++matrix)
        for (int64_t d = 0; d < dim; ++d) {
            double sum = 0;
            for (int64_t task = 0; task < tasks; ++task) sum += parts[(matrix * tasks + task) * dim + d];
            grad_one[matrix * dim + d] = T(sum);
        }
}

}  // namespace

}  // namespace qmk::QMK_TARGET

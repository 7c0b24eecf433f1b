//! A matrix (rows, cols), contiguous, row-major, of f32, bf16 or f64. No type parameters: an op asks for the type
//! it expects. A clone shares the values; only an unshared tensor can be written.

use crate::device::arena::{Buffer, Category};
use crate::device::{DType, Device, Elem};
use std::sync::Arc;

#[derive(Clone)]
pub struct Tensor {
    rows: usize,
    cols: usize,
    dtype: DType,
    /// None only in `Tensor::default()`, the value that is not there.
    buffer: Option<Arc<Buffer>>,
}

impl Default for Tensor {
    fn default() -> Self {
        Tensor { rows: 0, cols: 0, dtype: DType::F32, buffer: None }
    }
}

impl Tensor {
    /// Arbitrary content.
    pub fn empty(dev: &Device, rows: usize, cols: usize, dtype: DType, category: Category) -> Tensor {
        let buffer = dev.arena().take(rows * cols * dtype.bytes(), category);
        Tensor { rows, cols, dtype, buffer: Some(Arc::new(buffer)) }
    }
    pub fn zeros(dev: &Device, rows: usize, cols: usize, dtype: DType, category: Category) -> Tensor {
        let mut buffer = dev.arena().take(rows * cols * dtype.bytes(), category);
        buffer.zero();
        Tensor { rows, cols, dtype, buffer: Some(Arc::new(buffer)) }
    }
    /// Copies values in, for inputs and tests.
    pub fn from_slice<T: Elem>(
        dev: &Device,
        rows: usize,
        cols: usize,
        values: &[T],
        category: Category,
    ) -> Tensor {
        assert_eq!(rows * cols, values.len(), "values of a ({rows}, {cols}) tensor");
        let mut t = Tensor::empty(dev, rows, cols, T::DTYPE, category);
        t.data_mut::<T>().copy_from_slice(values);
        t
    }
    pub fn rows(&self) -> usize {
        self.rows
    }
    pub fn cols(&self) -> usize {
        self.cols
    }
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// Whether there is a value at all: false for `Tensor::default()`.
    pub fn exists(&self) -> bool {
        self.buffer.is_some()
    }
    /// On the Meta device: it has a shape and no values.
    pub fn is_meta(&self) -> bool {
        self.buffer.as_ref().is_some_and(|b| b.is_meta())
    }
    /// Memory of the same device for the communication of this tensor.
    pub(crate) fn staging(&self, bytes: usize) -> Buffer {
        self.buffer.as_ref().expect("the tensor exists").another(bytes, Category::Comm)
    }
    /// On the Meta device: appends a line to its program.
    pub fn note(&self, line: std::fmt::Arguments) {
        if let Some(buffer) = &self.buffer {
            buffer.arena().note(line);
        }
    }
    pub fn bytes(&self) -> &[u8] {
        self.buffer.as_ref().expect("the tensor exists").bytes()
    }
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let buffer = self.buffer.as_mut().expect("the tensor exists");
        Arc::get_mut(buffer).expect("a tensor that is written is not shared").bytes_mut()
    }
    /// Panics if the values are not of type T.
    pub fn data<T: Elem>(&self) -> &[T] {
        assert_eq!(self.dtype, T::DTYPE, "dtype of a ({}, {}) tensor", self.rows, self.cols);
        bytemuck::cast_slice(self.bytes())
    }
    /// Panics if the values are not of type T or the tensor is shared.
    pub fn data_mut<T: Elem>(&mut self) -> &mut [T] {
        assert_eq!(self.dtype, T::DTYPE, "dtype of a ({}, {}) tensor", self.rows, self.cols);
        bytemuck::cast_slice_mut(self.bytes_mut())
    }
    pub fn is_shared(&self) -> bool {
        self.buffer.as_ref().is_some_and(|b| Arc::strong_count(b) > 1)
    }
    /// The values as f64, for tests and reports.
    pub fn to_f64(&self) -> Vec<f64> {
        match self.dtype {
            DType::F64 => self.data::<f64>().to_vec(),
            DType::F32 => self.data::<f32>().iter().map(|&x| x as f64).collect(),
            DType::Bf16 => self.data::<half::bf16>().iter().map(|&x| x.load() as f64).collect(),
        }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Tensor({}, {}, {})", self.rows, self.cols, self.dtype)
    }
}

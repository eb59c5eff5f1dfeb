// Package zstd decodes zstd (RFC 8878) with several workers and delivers the
// content in order with bounded memory. It walks frames and blocks itself, so that
// every verdict has an exact place in the file; what is inside a block is decoded
// by github.com/klauspost/compress/zstd.
//
//	source.go  the compressed file, read with its offset
//	header.go  headers of frames and blocks
//	walk.go    from frame to frame: what makes a file whole
//	arena.go   the memory of frames that are gathered
//	whole.go   small frames, several at a time, each into one buffer
//	stream.go  all others, block by block through a sliding window
//	blocks.go  which block the library is at
//	batch.go   decoded content with runs of zeros set apart
//	reader.go  what callers see
//
// A frame is small if its content is known to be at most 16 MiB: its header says
// so, or it has so few blocks. The files of pzstd and of the seekable format
// consist of such frames; the command zstd writes a single large one.
//
// # Verdicts
//
// The command zstd differs in these:
//
//   - A file that decodes to nothing, for all frames are empty or skippable: an
//     error here, for no image is empty. Empty frames among others are fine.
//   - A window of more than Options.MaxWindow, 64 MiB if not set, is refused; the
//     command takes 128 MiB, or what --long or --memory say.
//   - Frames that need a dictionary are refused, and so are the formats before
//     0.8, which the command may have been built with.
//   - A frame without a checksum is decoded by both; damage in it may then go
//     unnoticed.
//
// Padding with zeros is trailing garbage for both.
package zstd

// Package bzip2 decodes bzip2 in parallel, block by block, and delivers the
// blocks in order with bounded memory. It has one file for each stage of the
// format, in the order in which the bits pass through them:
//
//	window.go    the part of the compressed file that is held in memory
//	scan.go      finding where blocks may begin
//	schedule.go  who decodes which block, and in which order they count
//	streams.go   stream headers, footers and checksums: what makes a file whole
//	bits.go      bit fields
//	header.go    a block's header: symbols in use, selectors, code lengths
//	huffman.go   prefix codes and the second run-length coding
//	mtf.go       move-to-front, noting the LF mapping on the way
//	bwt.go       the inverse Burrows-Wheeler transform
//	random.go    randomised blocks of bzip2 before 0.9.5
//	runs.go      the first run-length coding, with runs of zeros set apart
//	crc.go       the checksum of a block
//	block.go     a worker: one block through all of the stages
//	reader.go    what callers see
//
// A block carries neither its length nor a byte boundary; only a 48-bit mark
// tells that one may begin. Workers decode at every such mark speculatively,
// and the walk through the streams counts only those at which the block before
// has really ended. Marks inside a block are dropped as soon as it is known to
// cross them.
//
// # Verdicts
//
// The format has no standard; the C program and its library are what files are
// written for. Against them and github.com/dsnet/compress/bzip2 the verdicts
// differ as follows:
//
//   - Bytes after the last stream: an error here and in dsnet, also where a
//     valid stream follows them. The command bzip2 ignores them with a warning.
//   - Randomised blocks: decoded here and by bzip2, an error in dsnet.
//   - A block that is longer than any set of its symbols could need, which only
//     code lengths that go up and down for ever can bring about: an error here,
//     accepted by the other two.
//
// Over- and under-subscribed prefix codes are treated as all three treat them:
// a pattern without a code is an error only where it is met. lbzip2 relies on
// that, for it writes an under-subscribed second table that no selector uses,
// and more selectors than needed. Padding bits that aren't zero are accepted by
// all, an empty file by none.
package bzip2

package filesystem

import "encoding/binary"

const logSector = 512 // a basic block of the log, whatever the disk's sectors are

// cleanLog tells whether the log ends with an unmount record, so that nothing of it
// would be replayed (xlog_find_head and xlog_check_unmount_rec in
// fs/xfs/xfs_log_recover.c). It is stricter than the kernel: a log is accepted only
// if it has one cycle up to its head and the one before from there on.
func (x *xfs) cleanLog() error {
	l := &xfsLog{x: x, sectors: x.logBlocks * x.blockSize / logSector}
	if l.sectors < 2 {
		return doubtf("XFS has a log of %d bytes", l.sectors*logSector)
	}
	if err := l.scan(); err != nil {
		return err
	}
	dirty := doubtf("XFS needs log recovery")
	if l.record < 0 || l.uneven {
		return dirty
	}
	head, err := l.read(l.record)
	if err != nil {
		return err
	}
	be := binary.BigEndian
	headers := int64(1)
	const version2, headerData = 2, 32 << 10
	if size := int64(be.Uint32(head[320:])); be.Uint32(head[8:])&version2 != 0 && size > headerData {
		headers = ceil(size, headerData)
	}
	bytes, operations := int64(be.Uint32(head[12:])), be.Uint32(head[40:])
	if headers > 8 || (l.record+headers+ceil(bytes, logSector))%l.sectors != l.head%l.sectors || operations != 1 {
		return dirty
	}
	op, err := l.read((l.record + headers) % l.sectors)
	if err != nil {
		return err
	}
	const unmountTransaction = 0x20
	if op[9]&unmountTransaction == 0 {
		return dirty
	}
	return nil
}

type xfsLog struct {
	x       *xfs
	sectors int64
	head    int64 // the sector that would be written next
	record  int64 // the header of the last record before it; -1: none
	uneven  bool  // more than one change of the cycle
}

func (l *xfsLog) read(sector int64) ([]byte, error) {
	return l.x.p.read(l.x.logBlock*l.x.blockSize+sector*logSector, logSector)
}

// scan finds the head: where the cycle number, which each sector of the log begins
// with, falls by one.
func (l *xfsLog) scan() error {
	const piece = 1 << 20 / logSector
	const headerMagic = 0xfeedbabe
	l.head, l.record = l.sectors, -1
	behind := int64(-1) // the last record header behind the head
	var first uint32
	for at := int64(0); at < l.sectors; at += piece {
		n := min(piece, l.sectors-at)
		b, err := l.x.p.read(l.x.logBlock*l.x.blockSize+at*logSector, n*logSector)
		if err != nil {
			return err
		}
		for i := range n {
			s := b[i*logSector:]
			cycle := binary.BigEndian.Uint32(s)
			header := cycle == headerMagic
			if header {
				cycle = binary.BigEndian.Uint32(s[4:])
			}
			if at+i == 0 {
				first = cycle
			}
			switch {
			case l.head == l.sectors && cycle == first:
				if header {
					l.record = at + i
				}
				continue
			case l.head == l.sectors:
				l.head = at + i
			}
			l.uneven = l.uneven || cycle != first-1
			if header {
				behind = at + i
			}
		}
	}
	// A record may begin before the log's end and go on at its start.
	if l.record < 0 {
		l.record = behind
	}
	return nil
}

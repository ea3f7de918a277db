// The floor in Go: a grpc-go server that answers the three measured calls from a sharded map.
package main

import (
	"context"
	"fmt"
	"hash/maphash"
	"net"
	"sync"
	"time"

	pb "jobtrack/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const shardCount = 64

// Maximum number of concurrent calls on a connection, as in jobtrack.
const streamsMax = 1000

type shard struct {
	sync.RWMutex
	jobs map[string]*pb.Job
}

// A stored job is never changed, only replaced, so that it can be encoded outside the lock.
type floor struct {
	pb.UnimplementedJobServiceServer
	seed   maphash.Seed
	shards [shardCount]shard
}

func (f *floor) shard(id string) *shard {
	var hash maphash.Hash
	hash.SetSeed(f.seed)
	hash.WriteString(id)
	return &f.shards[hash.Sum64()%shardCount]
}

func (f *floor) get(id string) *pb.Job {
	shard := f.shard(id)
	shard.RLock()
	defer shard.RUnlock()
	return shard.jobs[id]
}

func (f *floor) put(job *pb.Job) {
	shard := f.shard(job.Id)
	shard.Lock()
	defer shard.Unlock()
	shard.jobs[job.Id] = job
}

func (f *floor) CreateJob(_ context.Context, request *pb.CreateJobRequest) (*pb.CreateJobResponse, error) {
	now := timestamppb.New(time.Now())
	job := &pb.Job{
		Id:         request.JobId,
		Kind:       request.Kind,
		Owner:      request.Owner,
		Labels:     request.Labels,
		State:      pb.Job_STATE_PENDING,
		CreateTime: now,
		UpdateTime: now,
		Revision:   1,
		Durability: pb.Durability_DURABILITY_VOLATILE,
	}
	f.put(job)
	return &pb.CreateJobResponse{Job: job, Created: true}, nil
}

func (f *floor) GetJob(_ context.Context, request *pb.GetJobRequest) (*pb.GetJobResponse, error) {
	job := f.get(request.JobId)
	if job == nil {
		return nil, status.Error(codes.NotFound, "there is no such job")
	}
	return &pb.GetJobResponse{Job: job, Source: pb.Source_SOURCE_MEMORY}, nil
}

func (f *floor) UpdateProgress(
	_ context.Context,
	request *pb.UpdateProgressRequest,
) (*pb.UpdateProgressResponse, error) {
	old := f.get(request.JobId)
	if old == nil {
		return nil, status.Error(codes.NotFound, "there is no such job")
	}
	now := timestamppb.New(time.Now())
	progress := request.Progress
	if progress != nil && progress.Completed != nil && progress.Total != nil {
		percent := float64(*progress.Completed) / float64(*progress.Total) * 100
		progress.Percent = &percent
	}
	job := &pb.Job{
		Id:         old.Id,
		Kind:       old.Kind,
		Owner:      old.Owner,
		Labels:     old.Labels,
		State:      pb.Job_STATE_RUNNING,
		Attempt:    1,
		Progress:   progress,
		Worker:     request.Worker,
		CreateTime: old.CreateTime,
		StartTime:  old.StartTime,
		UpdateTime: now,
		Revision:   old.Revision + 1,
		Durability: old.Durability,
	}
	if job.StartTime == nil {
		job.StartTime = now
	}
	f.put(job)
	return &pb.UpdateProgressResponse{Job: job, Applied: true}, nil
}

func main() {
	floor := &floor{seed: maphash.MakeSeed()}
	for at := range floor.shards {
		floor.shards[at].jobs = make(map[string]*pb.Job)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println("floor listening on", listener.Addr())
	server := grpc.NewServer(grpc.MaxConcurrentStreams(streamsMax))
	pb.RegisterJobServiceServer(server, floor)
	panic(server.Serve(listener))
}
